"""Idempotency-Key: the same request twice is done once and answered twice.

1. The key belongs to the API key that sent it, and to one API and body; another body under it is a conflict.
2. Only a whole answer is kept; a request that failed, was cut or whose client hung up may be tried again.
3. An answer above `max_replay_bytes` is not kept: a repeat is told so instead of being done again in silence.

Law: docs/spec/gateway.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import msgspec

from steelyard.errors import BadRequest, Conflict
from steelyard.gateway.replies import Reply
from steelyard.gateway.settings import GatewaySettings
from steelyard.storage.database import Database
from steelyard.storage.idempotency import begin_request, drop_crashed, drop_expired, drop_request, finish_request

MAX_KEY = 255
_TOO_LARGE = b"-"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply).decode


class Replays:
    """What was answered under an Idempotency-Key, for as long as it is kept."""

    def __init__(self, settings: GatewaySettings, database: Database, clock_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._database = database
        self._clock_ms = clock_ms

    async def begin(self, key_id: str, raw_key: bytes, api: str, body: bytes) -> Reply | Recording:
        """Return the answer that was given before, or a recording for the one to come.

        Raises:
            BadRequest: no usable key. Conflict: another body, still running, or an answer too large to be kept.
        """
        try:
            idem_key = raw_key.decode("ascii")
        except UnicodeDecodeError as error:
            raise BadRequest("Idempotency-Key has other characters than ASCII", param="Idempotency-Key") from error
        if not 0 < len(idem_key) <= MAX_KEY or not idem_key.isprintable():
            raise BadRequest(
                f"Idempotency-Key has {len(idem_key)} characters: it has 1 to {MAX_KEY} printable ones",
                param="Idempotency-Key",
            )
        now_ms = self._clock_ms()
        kept = await begin_request(
            self._database,
            key_id,
            idem_key,
            sha256(api.encode() + b"\x00" + body).digest(),
            process=self._settings.process,
            now_ms=now_ms,
            expires_ms=now_ms + int(self._settings.idempotency_s * 1000),
        )
        if kept is None:
            return Recording(self._database, key_id, idem_key, self._settings.max_replay_bytes)
        if kept == _TOO_LARGE:
            raise Conflict(
                f"the request with Idempotency-Key {idem_key!r} was answered, and its answer was too large to be kept "
                f"(over {self._settings.max_replay_bytes} bytes): use a new key to ask again",
                code="idempotency_answer_too_large",
            )
        return _decode(kept)

    async def forget_crashed(self) -> None:
        """Forget what a run of this process left unfinished; called at the start."""
        await drop_crashed(self._database, self._settings.process)

    async def forget_expired(self) -> None:
        """Forget what is past its time."""
        await drop_expired(self._database, now_ms=self._clock_ms())


class Recording:
    """One request's claim on its Idempotency-Key: `keep` its answer, or `close` drops the claim."""

    __slots__ = ("_database", "_idem_key", "_is_kept", "_key_id", "_max_bytes")

    def __init__(self, database: Database, key_id: str, idem_key: str, max_bytes: int) -> None:
        self._database = database
        self._key_id = key_id
        self._idem_key = idem_key
        self._max_bytes = max_bytes
        self._is_kept = False

    async def keep(self, reply: Reply) -> None:
        """Keep a whole answer, before its last byte is sent."""
        raw = _encode(reply)
        await finish_request(
            self._database, self._key_id, self._idem_key, raw if len(raw) <= self._max_bytes else _TOO_LARGE
        )
        self._is_kept = True

    async def close(self) -> None:
        """Drop the claim unless an answer was kept."""
        if not self._is_kept:
            await drop_request(self._database, self._key_id, self._idem_key)
