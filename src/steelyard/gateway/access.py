"""Who calls: API keys in memory, checked again so often that a revoked key is refused within a second.

1. A key used within `check_s` of its last check is taken as it was; later use checks it again beside the call; past
   one second the call waits for the check.
2. Headers are known by their hash; a key is one account, however its header is spelt. What isn't a key costs one
   look-up a second at most.
3. On PostgreSQL other processes may serve the same keys: turns are leased from one bucket there.
4. The order of refusals: no key, wrong key, revoked, expired, too many requests.

Law: docs/spec/gateway.md, section 5.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

from steelyard.errors import NotFound, RateLimited, SteelyardError, Unauthorized
from steelyard.gateway.call_marks import key_mark
from steelyard.gateway.rate_limits import SharedBucket, TokenBucket
from steelyard.storage.database import Database
from steelyard.storage.keys import PREFIX, ApiKey, find_key, hash_secret, load_key
from steelyard.storage.turns import lease_turns

MAX_KEYS = 10_000
MAX_STRANGERS = 4_096
LONGEST_TRUST_S = 1.0

_HOW = "send it as `Authorization: Bearer sk-steelyard-...`; `steelyard keys create` makes one"


class Account:
    """A key as this process knows it."""

    __slots__ = (
        "bucket",
        "checked_s",
        "expires_ms",
        "is_checking",
        "is_shared",
        "key_id",
        "mark",
        "name",
        "revoked_ms",
    )

    def __init__(self, key: ApiKey, now_s: float, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self.key_id = key.key_id
        self.mark = key_mark(key.key_id)
        self.bucket: TokenBucket | SharedBucket | None = None
        self.is_checking = False
        self.update(key, now_s)

    def update(self, key: ApiKey, now_s: float) -> None:
        """Take over what the database says of the key."""
        self.name = key.name
        self.expires_ms = key.expires_ms
        self.revoked_ms = key.revoked_ms
        self.checked_s = now_s
        rate = key.requests_per_minute
        if rate is None:
            self.bucket = None
        elif self.bucket is None or self.bucket.per_minute != rate:
            self.bucket = (SharedBucket if self.is_shared else TokenBucket)(rate, now_s)


class Access:
    """All keys that were used lately.

    Args:
        check_s: the age at which a key is checked again. clock: monotonic seconds. clock_ms: Unix milliseconds.
    """

    def __init__(
        self, database: Database, *, check_s: float, clock: Callable[[], float], clock_ms: Callable[[], int]
    ) -> None:
        self._database = database
        self._is_shared = database.kind == "postgresql"
        self._check_s = check_s
        self._clock = clock
        self._clock_ms = clock_ms
        self._accounts: OrderedDict[bytes, Account] = OrderedDict()
        self._by_key: OrderedDict[str, Account] = OrderedDict()
        self._strangers: OrderedDict[bytes, float] = OrderedDict()
        self._checks: set[asyncio.Task[None]] = set()

    def recall(self, authorization: bytes | None, now_s: float) -> Account | None:
        """Return the account behind a header if it is known, fresh and live; None means: ask `admit`."""
        if authorization is None:
            return None
        account = self._accounts.get(sha256(authorization).digest())
        if account is None:
            return None
        age_s = now_s - account.checked_s
        if age_s >= self._check_s:
            if age_s >= LONGEST_TRUST_S:
                return None
            if not account.is_checking:
                account.is_checking = True
                task = asyncio.create_task(self._check(account), name="key-check")
                self._checks.add(task)
                task.add_done_callback(self._checks.discard)
        if account.revoked_ms is not None or (
            account.expires_ms is not None and self._clock_ms() >= account.expires_ms
        ):
            return None
        return account

    async def admit(self, authorization: bytes | None) -> Account:
        """Return the account behind an Authorization header.

        Raises:
            Unauthorized: there is none, it is wrong, revoked or expired; says which, and never the key.
        """
        account = self.recall(authorization, self._clock())
        if account is None:
            account = await self._look_up(authorization)
        now_ms = self._clock_ms()
        if account.revoked_ms is not None:
            raise Unauthorized(f"key {account.name!r} is revoked: use another one", code="key_revoked")
        if account.expires_ms is not None and now_ms >= account.expires_ms:
            raise Unauthorized(
                f"key {account.name!r} expired {(now_ms - account.expires_ms) // 1000} s ago: use another one, or have "
                "it prolonged with `steelyard keys limit`",
                code="key_expired",
            )
        return account

    async def take_turn(self, account: Account) -> None:
        """Count a request against the key's rate; raises RateLimited with the time to wait."""
        bucket = account.bucket
        if bucket is None:
            return
        wait_s = bucket.take(self._clock())
        if wait_s and isinstance(bucket, SharedBucket):
            wait_s = bucket.empty_for_s(self._clock()) or await self._lease_turn(account, bucket)
        if wait_s:
            raise RateLimited(
                f"key {account.name!r} may send {bucket.per_minute} requests a minute: the next one in {wait_s:.1f} s",
                retry_after_s=wait_s,
            )

    async def _lease_turn(self, account: Account, bucket: SharedBucket) -> float:
        """Take a turn from the bucket in the database and return 0.0, or how many seconds until there is one."""
        granted, wait_s = await lease_turns(
            self._database, account.key_id, per_minute=bucket.per_minute, want=bucket.want, now_ms=self._clock_ms()
        )
        if granted:
            bucket.fill(granted - 1, self._clock())
        else:
            bucket.note_empty(wait_s, self._clock())
        return wait_s

    def try_turn(self, account: Account, now_s: float) -> bool:
        """Count a request against the key's rate, or return False and count nothing."""
        return account.bucket is None or not account.bucket.take(now_s)

    def give_back_turn(self, account: Account) -> None:
        """Undo `try_turn`: the request will be counted when it is served."""
        if account.bucket is not None:
            account.bucket.give_back()

    async def aclose(self) -> None:
        """Stop the checks that run."""
        for task in self._checks:
            task.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)

    async def _look_up(self, authorization: bytes | None) -> Account:
        secret = _read_secret(authorization)
        header = sha256(authorization or b"").digest()
        known = self._accounts.get(header)
        now_s = self._clock()
        if known is not None and now_s - known.checked_s < LONGEST_TRUST_S:
            return known
        digest = hash_secret(secret)
        if now_s - self._strangers.get(digest, float("-inf")) < LONGEST_TRUST_S:
            raise _unknown(secret)
        key = await find_key(self._database, secret)
        if key is None:
            self._strangers[digest] = now_s
            if len(self._strangers) > MAX_STRANGERS:
                self._strangers.popitem(last=False)
            raise _unknown(secret)
        account = self._by_key.get(key.key_id)
        if account is None:
            account = self._by_key[key.key_id] = Account(key, now_s, is_shared=self._is_shared)
            if len(self._by_key) > MAX_KEYS:
                self._by_key.popitem(last=False)
        else:
            account.update(key, now_s)
        self._accounts[header] = account
        if len(self._accounts) > MAX_KEYS:
            self._accounts.popitem(last=False)
        return account

    async def _check(self, account: Account) -> None:
        asked_s = self._clock()
        try:
            account.update(await load_key(self._database, account.key_id), asked_s)
        except NotFound:
            account.revoked_ms = 0
        except SteelyardError:
            pass  # past one second the call itself asks, and says what is wrong
        finally:
            account.is_checking = False


def _read_secret(authorization: bytes | None) -> str:
    if not authorization:
        raise Unauthorized(f"no API key: {_HOW}", code="missing_api_key")
    scheme, _, rest = authorization.partition(b" ")
    secret = rest.strip().decode("latin-1")
    if scheme.lower() != b"bearer" or not secret:
        raise Unauthorized(f"the Authorization header is no bearer key: {_HOW}")
    if not secret.startswith(PREFIX):
        raise _unknown(secret)
    return secret


def _unknown(secret: str) -> Unauthorized:
    shown = secret[: len(PREFIX) + 4] if secret.startswith(PREFIX) else secret[:4]
    return Unauthorized(f"the API key {shown}... is not one of this gateway's: {_HOW}")
