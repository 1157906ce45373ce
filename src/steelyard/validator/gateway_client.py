"""One gateway as a validator asks it: what was served, a call's texts, and the evidence that its provider keeps.

1. Both sides prove who they are: the validator signs the gateway's nonce, the gateway signs the validator's.
2. Whatever the gateway answers is untrusted: sizes are bounded, fields are checked, and nothing is believed that the
   provider's own signature does not bind (`opened`).
3. A call that isn't kept (private, too old, lost in a restart) is the gateway's own lack, never the provider's.

Law: docs/spec/validator.md, section 2; docs/spec/gateway.md, "Checks".
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from steelyard.errors import BadMessage, NotFound, NotProvable, SteelyardError, Unauthorized, Unavailable
from steelyard.protocol.call_proof import read_bytes, read_shown
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import MAX_BATCH_CALLS, SignedBatch
from steelyard.protocol.messages import Batch, Handshake, Order, Receipt
from steelyard.protocol.signing import Domain, SigningKey, require_signer

MAX_ANSWER_BYTES = 64 * 1024 * 1024
TIMEOUT_S = 30.0


class ShownBatch(msgspec.Struct, frozen=True):
    """A batch as a gateway shows it: where it stands in the feed, the provider's signature, and its calls in the order
    of their leaves; no calls where the gateway lost one of them.
    """

    cursor: int
    signed: SignedBatch
    calls: tuple[tuple[Order, Receipt], ...]


class ShownCall(msgspec.Struct, frozen=True):
    """A call's texts: the body that was sent, the content that came back, the salt that opens their hashes, and what
    the answer went on from, if another provider had begun it.
    """

    api: str
    body: bytes
    content: bytes
    salt: bytes
    prefix: bytes = b""


class GatewayClient:
    """Asks one gateway; `aclose` when done.

    Args:
        url: the gateway's base URL, without ``/v1``. account: the gateway's, from the registry. key: the validator's.
        domain: of the deployment.
    """

    def __init__(self, url: str, account: bytes, key: SigningKey, domain: Domain) -> None:
        self.url = url.rstrip("/")
        self.account = account
        self._key = key
        self._domain = domain
        self._token = ""
        self._http: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()

    async def fetch_batches(self, after: int, limit: int = 50) -> tuple[list[ShownBatch], int]:
        """Return the batches after a cursor in the order of their arrival, and the next cursor.

        Raises:
            BadMessage: the answer is malformed. Unavailable: the gateway is silent or refuses.
        """
        answer = await self._ask(f"/v1/checks/batches?after={after}&limit={limit}")
        items, following = answer.get("data"), answer.get("next")
        if not isinstance(items, list) or not isinstance(following, int) or following < after:
            raise BadMessage(f"{self.url} shows no list of batches")
        try:
            return [_read_batch(item) for item in items], following
        except NotProvable as error:
            raise BadMessage(f"{self.url}: {error.message}") from error

    async def fetch_call(self, receipt_hash: bytes) -> ShownCall | None:
        """Return a call's texts, or None if the gateway doesn't keep them."""
        try:
            answer = await self._ask(f"/v1/checks/calls/0x{receipt_hash.hex()}")
        except NotFound:
            return None
        api = answer.get("api")
        try:
            if not isinstance(api, str):
                raise NotProvable("the gateway shows no api")
            return ShownCall(
                api,
                _base64(answer.get("body"), "body"),
                _base64(answer.get("content"), "content"),
                read_bytes(answer.get("salt"), "salt"),
                _base64(answer.get("prefix", ""), "prefix"),
            )
        except NotProvable as error:
            raise BadMessage(f"{self.url}: {error.message}") from error

    async def fetch_evidence(self, receipt_hash: bytes) -> bytes | None:
        """Return the evidence blob of a receipt, relayed from its provider; None if the provider did not serve it."""
        try:
            answer = await self._ask(f"/v1/checks/evidence/0x{receipt_hash.hex()}")
        except NotFound:
            return None
        try:
            return _base64(answer.get("evidence"), "evidence")
        except NotProvable as error:
            raise BadMessage(f"{self.url}: {error.message}") from error

    async def fetch_consent(self, receipt_hash: bytes) -> bytes | None:
        """Return the gateway's consent (65 bytes) to demand a receipt's evidence on chain, or None if it gives none.

        Raises:
            Unavailable: it is silent, or did not see the provider fail often enough itself (``relay_first``).
        """
        try:
            answer = await self._ask(f"/v1/checks/consents/0x{receipt_hash.hex()}", "POST")
            return read_bytes(answer.get("consent"), "consent")
        except (NotFound, NotProvable):
            return None
        except Unavailable as error:
            if error.code == "no_consent":
                return None
            raise

    async def _ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        for is_last in (False, True):
            if not self._token:
                await self._open_session()
            try:
                return await self._request(method, path, {"Authorization": f"Bearer {self._token}"}, None)
            except Unauthorized:
                self._token = ""
                if is_last:
                    raise
        raise AssertionError("unreachable")

    async def _open_session(self) -> None:
        me = self._key.account
        offered = await self._request("GET", f"/v1/checks/nonce?validator=0x{me.hex()}", {}, None)
        own = secrets.token_bytes(32)
        try:
            gateway = read_bytes(offered.get("gateway"), "gateway")
            peer = read_bytes(offered.get("nonce"), "nonce")
            if gateway != self.account:
                raise BadMessage(f"{self.url} is gateway 0x{gateway.hex()}, not 0x{self.account.hex()}")
            mine = Handshake(me, gateway, own, peer, ZERO32)
            body = {
                "validator": "0x" + me.hex(),
                "nonce": "0x" + own.hex(),
                "peer_nonce": "0x" + peer.hex(),
                "signature": "0x" + self._key.sign(self._domain.digest(mine.struct_hash())).hex(),
            }
            answer = await self._request("POST", "/v1/checks/session", {}, body)
            theirs = Handshake(gateway, me, peer, own, ZERO32)
            signature = read_bytes(answer.get("signature"), "signature")
        except NotProvable as error:
            raise BadMessage(f"{self.url}: {error.message}") from error
        require_signer(self._domain.digest(theirs.struct_hash()), signature, gateway, "gateway's handshake")
        self._token = str(answer.get("token", ""))

    async def _request(
        self, method: str, path: str, headers: dict[str, str], body: dict[str, Any] | None
    ) -> dict[str, Any]:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        try:
            async with self._http.request(method, self.url + path, headers=headers, json=body) as answer:
                raw = await _read_bounded(answer)
                if answer.status == 200:
                    value = msgspec.json.decode(raw)
                    if not isinstance(value, dict):
                        raise BadMessage(f"{self.url}{path} answers with no JSON object")
                    return value
                raise _refusal(answer.status, raw, self.url + path)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{self.url} does not answer: {error or type(error).__name__}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessage(f"{self.url}{path} answers with something that isn't JSON: {error}") from error


async def _read_bounded(answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_chunked(1 << 16):
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise BadMessage(f"{answer.url} answers with more than {MAX_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _refusal(status: int, raw: bytes, url: str) -> SteelyardError:
    try:
        told = msgspec.json.decode(raw)["error"]
        code, message = str(told["code"])[:64], str(told["message"])[:300]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        code, message = "http_error", f"status {status}"
    if status == 401:
        return Unauthorized(f"{url}: {message}", code=code)
    if status == 404:
        return NotFound(f"{url}: {message}", code=code)
    return Unavailable(f"{url}: {message}", code=code)


def _read_batch(item: object) -> ShownBatch:
    if not isinstance(item, Mapping):
        raise NotProvable("the gateway shows a batch that is no object")
    cursor, calls = item.get("cursor"), item.get("calls")
    if not isinstance(cursor, int) or not isinstance(calls, list) or len(calls) > MAX_BATCH_CALLS:
        raise NotProvable("the gateway shows a batch without a cursor or its calls")
    pairs = []
    for call in calls:
        if not isinstance(call, Mapping):
            raise NotProvable("the gateway shows a call that is no object")
        pairs.append(
            (read_shown(Order, call.get("order"), "order"), read_shown(Receipt, call.get("receipt"), "receipt"))
        )
    signed = SignedBatch(read_shown(Batch, item.get("batch"), "batch"), read_bytes(item.get("signature"), "signature"))
    return ShownBatch(cursor, signed, tuple(pairs))


def _base64(value: object, what: str) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise NotProvable(f"the gateway shows a malformed {what}")
