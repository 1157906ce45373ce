"""The relay's addresses: which chain or data source a request is for, and by whose key.

form                                          what
--------------------------------------------  ----------------------------------------------------------
POST /rpc/{chain}                             JSON-RPC, the key in the Authorization header
POST /rpc/{chain}/{key}                       the same for wallets, which can't set headers
POST /v1, POST /                              the same with the header Target-Service-Id: {chain}
GET  /rpc/{chain}[/{key}], upgraded           JSON-RPC over a WebSocket
any  /rest/{service}/{path}                   plain HTTP, passed through

1. A key that came by the path is used as if it had come by the header, and never logged or shown.

Law: docs/spec/relay.md, section 1.
"""

from __future__ import annotations

from typing import NamedTuple

RPC, REST = "rpc", "rest"
RPC_PREFIX, REST_PREFIX = "/rpc/", "/rest/"
TARGET = b"target-service-id"
_ROOTS = frozenset(("/", "/v1", "/v1/"))
_KEY_START = "sk-steelyard-"


class RelayRoute(NamedTuple):
    """Where a request goes: `front` is RPC or REST, `rest_path` what follows a REST service's name."""

    front: str
    service: str
    authorization: bytes | None
    rest_path: str = ""


def read_route(path: str, headers: dict[bytes, bytes]) -> RelayRoute | None:
    """Return where a request goes, or None if it isn't the relay's."""
    if path.startswith(RPC_PREFIX):
        service, _, key = path[len(RPC_PREFIX) :].rstrip("/").partition("/")
        return RelayRoute(RPC, service, _authorization(headers, key))
    if path.startswith(REST_PREFIX):
        service, slash, rest = path[len(REST_PREFIX) :].partition("/")
        return RelayRoute(REST, service, headers.get(b"authorization"), slash + rest)
    if path in _ROOTS and (target := headers.get(TARGET)) is not None:
        return RelayRoute(RPC, target.decode("latin-1").strip(), _authorization(headers, ""))
    return None


def shown_path(path: str) -> str:
    """Return a path as it may be logged: without a key."""
    return path[: path.index(_KEY_START)] + "…" if _KEY_START in path else path


def _authorization(headers: dict[bytes, bytes], key: str) -> bytes | None:
    return b"Bearer " + key.encode("latin-1", "replace") if key else headers.get(b"authorization")
