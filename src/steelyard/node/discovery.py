"""Finding gateways: from a base URL, or from the registry, to the links to dial.

A gateway tells the links of its processes under `GET /v1/network`; a `ws://` or `wss://` URL is dialled as it is.

Law: docs/spec/node.md, section 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from steelyard.errors import BadRequest, ConfigError
from steelyard.protocol.ids import format_hex, parse_account

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """Where to dial, and who must answer there (None: whoever proves to be a gateway)."""

    url: str
    gateway: bytes | None = None


async def find_links(url: str, *, salt: bytes, expected: bytes | None = None) -> list[LinkAddress]:
    """Return the links of a gateway's URL, one of each of its processes.

    Args:
        url: http(s):// base URL, or ws(s):// link. salt: our deployment id; a gateway of another one is refused.
        expected: the account that the registry names for the URL, if that is where it came from.

    Raises:
        ConfigError: not a URL of that sort, nobody answers, or the answer is no gateway's of this deployment.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("ws", "wss"):
        return [LinkAddress(url, expected)]
    if scheme not in ("http", "https"):
        raise ConfigError(f"{url!r} is no gateway URL: it begins with https:// or, on this machine, http://")
    network = await _fetch(url.rstrip("/") + "/v1/network")
    try:
        deployment, account = network["deployment"], parse_account(network["gateway"])
        links = network.get("link_urls") or [network["link_url"]]
    except (KeyError, TypeError, BadRequest) as error:
        raise ConfigError(f"{url} answers, but not as a Steelyard gateway: {error}") from error
    if deployment != format_hex(salt):
        raise ConfigError(f"the gateway at {url} is of deployment {deployment}, ours is {format_hex(salt)}")
    if expected is not None and account != expected:
        raise ConfigError(f"the gateway at {url} is {format_hex(account)}, the registry says {format_hex(expected)}")
    return [LinkAddress(str(link), account) for link in links]


async def _fetch(url: str) -> Any:
    import aiohttp

    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
            session.get(url) as answer,
        ):
            answer.raise_for_status()
            return json.loads(await answer.content.read(1 << 20))
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        raise ConfigError(f"no gateway answers at {url}: {str(error) or type(error).__name__}") from error
