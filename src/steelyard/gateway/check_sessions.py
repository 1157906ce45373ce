"""Who may look at calls: validators with stake, each proven by a signature over nonces of both sides.

validator  GET nonce?validator=…                                                            →
           ←  gateway, nonce
           POST session: own nonce, the gateway's, signature of Handshake(validator, gateway, own, gateway's, zero) →
           ←  token, expires_ms, signature of Handshake(gateway, validator, gateway's, own, zero)

1. A nonce is a time and a MAC under a secret of this process: nothing is kept for whoever only asks for one.
2. It opens one session, for the account it was made for, within a minute.
3. The chain is asked only about who has proven an account, and by few at once.
4. The signature names whom it is meant for, so it is good at no other gateway. A validator that dialled the wrong place
   learns it from the account that the gateway names.

Law: docs/spec/gateway.md, section 9.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from steelyard.errors import BadRequest, BadSignature, Forbidden, RateLimited, Unauthorized, Unavailable
from steelyard.gateway.rate_limits import TokenBucket
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.ids import format_hex
from steelyard.protocol.messages import Handshake
from steelyard.protocol.signing import Domain, SigningKey, require_signer

NONCE_S = 60
SESSION_S = 600
SESSIONS_EACH = 4
"""Open sessions of one validator; the oldest ends when there would be more."""

REQUESTS_PER_MINUTE = 6_000
MAX_OPENING = 16
PREFIX = "chk-"
_HOW = "open a session with POST /v1/checks/session and send its token as `Authorization: Bearer chk-...`"


class OpenedSession(msgspec.Struct, frozen=True):
    """What a validator gets: its token, until when (Unix ms), and the gateway's half of the handshake."""

    token: str
    expires_ms: int
    signature: bytes


@dataclass(slots=True)
class _Session:
    validator: bytes
    expires_ms: int


class CheckSessions:
    """The sessions of one gateway process.

    Args:
        is_validator: asks the chain. clock: monotonic seconds. clock_ms: Unix milliseconds.
    """

    def __init__(
        self,
        key: SigningKey,
        domain: Domain,
        is_validator: Callable[[bytes], Awaitable[bool]],
        *,
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
    ) -> None:
        self._key = key
        self._domain = domain
        self._is_validator = is_validator
        self._clock = clock
        self._clock_ms = clock_ms
        self._secret = os.urandom(32)
        self._used: dict[bytes, int] = {}
        self._sessions: dict[str, _Session] = {}
        self._buckets: dict[bytes, TokenBucket] = {}
        self._opening = 0

    def make_nonce(self, validator: bytes) -> bytes:
        """Return 32 bytes that open one session for an account (untrusted) within a minute."""
        head = self._clock_ms().to_bytes(8, "big") + os.urandom(8)
        return head + self._mac(head, validator)

    async def open(self, validator: bytes, nonce: bytes, peer_nonce: bytes, signature: bytes) -> OpenedSession:
        """Open a session.

        Args:
            validator: 20 bytes. nonce: the validator's own 32. peer_nonce: ours. signature: 65. All untrusted.

        Raises:
            Unauthorized: our nonce is wrong, used or too old, or the signature is another's.
            Forbidden: the account is no validator with active stake. ChainError: the chain can't be asked.
            Unavailable: too many are being opened.
        """
        now_ms = self._clock_ms()
        head = peer_nonce[:16]
        is_ours = len(peer_nonce) == 32 and hmac.compare_digest(peer_nonce[16:], self._mac(head, validator))
        if not is_ours or now_ms - int.from_bytes(head[:8], "big") > NONCE_S * 1000 or peer_nonce in self._used:
            raise Unauthorized(
                f"`peer_nonce` is not one that this gateway gave to {format_hex(validator)} within {NONCE_S} s and "
                "that is unused: get another with GET /v1/checks/nonce",
                code="invalid_nonce",
                param="peer_nonce",
            )
        theirs = Handshake(validator, self._key.account, nonce, peer_nonce, ZERO32)
        try:
            require_signer(self._domain.digest(theirs.struct_hash()), signature, validator, "handshake")
        except BadSignature as error:
            raise Unauthorized(error.message, code="invalid_signature", param="signature") from error
        if self._opening >= MAX_OPENING:
            raise Unavailable(f"{MAX_OPENING} sessions are being opened", code="overloaded", retry_after_s=1.0)
        self._used[peer_nonce] = now_ms
        self._opening += 1
        try:
            is_validator = await self._is_validator(validator)
        finally:
            self._opening -= 1
        if not is_validator:
            raise Forbidden(
                f"{format_hex(validator)} has no active stake as a validator: stake with `steelyard stake validator`",
                code="not_a_validator",
            )
        return self._begin(validator, nonce, peer_nonce)

    def admit(self, authorization: bytes | None) -> bytes:
        """Return the validator behind an Authorization header, and count its request.

        Raises:
            Unauthorized: no token, or one that is unknown or has expired. RateLimited: too many requests.
        """
        scheme, _, rest = (authorization or b"").partition(b" ")
        token = rest.strip().decode("latin-1")
        session = self._sessions.get(token) if scheme.lower() == b"bearer" else None
        if session is None or session.expires_ms <= self._clock_ms():
            raise Unauthorized(f"no session, or one that has expired: {_HOW}", code="invalid_session")
        wait_s = self._buckets[session.validator].take(self._clock())
        if wait_s:
            raise RateLimited(
                f"a validator may send {REQUESTS_PER_MINUTE} requests a minute: the next one in {wait_s:.2f} s",
                retry_after_s=wait_s,
            )
        return session.validator

    def expire(self) -> None:
        """Forget sessions and nonces that are past."""
        now_ms = self._clock_ms()
        self._used = {nonce: at for nonce, at in self._used.items() if now_ms - at <= NONCE_S * 1000}
        self._sessions = {token: one for token, one in self._sessions.items() if one.expires_ms > now_ms}
        open_ones = {one.validator for one in self._sessions.values()}
        self._buckets = {validator: bucket for validator, bucket in self._buckets.items() if validator in open_ones}

    def _begin(self, validator: bytes, nonce: bytes, peer_nonce: bytes) -> OpenedSession:
        own = [token for token, session in self._sessions.items() if session.validator == validator]
        for token in own[: max(0, len(own) - SESSIONS_EACH + 1)]:
            del self._sessions[token]
        token, expires_ms = PREFIX + os.urandom(32).hex(), self._clock_ms() + SESSION_S * 1000
        self._sessions[token] = _Session(validator, expires_ms)
        self._buckets.setdefault(validator, TokenBucket(REQUESTS_PER_MINUTE, self._clock()))
        ours = Handshake(self._key.account, validator, peer_nonce, nonce, ZERO32)
        return OpenedSession(token, expires_ms, self._key.sign(self._domain.digest(ours.struct_hash())))

    def _mac(self, head: bytes, validator: bytes) -> bytes:
        return hmac.digest(self._secret, head + validator, "sha256")[:16]


def read_hex(value: object, name: str, size: int) -> bytes:
    """Return the bytes of a 0x field (untrusted); raises BadRequest naming it."""
    if isinstance(value, str) and value.startswith("0x") and len(value) == 2 + 2 * size:
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    shown = str(value)[:40]
    raise BadRequest(f"`{name}` is {shown!r}: it is 0x and {2 * size} hex digits", param=name, code="invalid_value")
