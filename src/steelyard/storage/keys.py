"""API keys: who may call a gateway, how often, and from which budget.

1. The secret is shown once, when the key is made; only its SHA-256 is kept (it has 256 random bits: nothing to salt).
2. A key's budget has the key's id.
3. A key is never deleted: it is revoked, and its calls keep their owner.

Law: docs/spec/storage.md, section 5.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Select, insert, select, update

from steelyard.errors import BadRequest, Conflict, NotFound
from steelyard.storage.budgets import change_limit, create_budget
from steelyard.storage.database import Database
from steelyard.storage.schema import api_keys, budgets

PREFIX = "sk-steelyard-"
_SHOWN = len(PREFIX) + 4
_MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and where its budget stood when it was read; None means no limit, no expiry, not revoked."""

    key_id: str
    name: str
    prefix: str
    requests_per_minute: int | None
    expires_ms: int | None
    revoked_ms: int | None
    created_ms: int
    limit_nano: int | None
    spent_nano: int
    leased_nano: int

    @property
    def budget_id(self) -> str:
        """Return the id of the key's budget."""
        return self.key_id

    def is_live(self, now_ms: int) -> bool:
        """Tell whether the key may be used: neither revoked nor expired."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


def hash_secret(secret: str) -> bytes:
    """Return what is kept of a secret, and looked up by."""
    return hashlib.sha256(secret.encode()).digest()


async def create_key(
    database: Database,
    name: str,
    *,
    limit_nano: int | None = None,
    requests_per_minute: int | None = None,
    expires_ms: int | None = None,
    now_ms: int,
    draw: Callable[[int], bytes] = secrets.token_bytes,
) -> tuple[ApiKey, str]:
    """Make a key with its budget; return it and its secret, which nobody can tell again.

    Args:
        name: 1 to 100 characters, for people; no two keys that are not revoked have the same.
        limit_nano: all that it may ever spend, until `limit_key` changes it. draw: random bytes.

    Raises:
        BadRequest: a value out of range. Conflict: the name is taken.
    """
    if not 0 < len(name.strip()) <= _MAX_NAME or name != name.strip():
        raise BadRequest(f"a key's name has 1 to {_MAX_NAME} characters, not {name[:200]!r}", param="name")
    _check_rate(requests_per_minute)
    secret = PREFIX + base64.urlsafe_b64encode(draw(32)).decode().rstrip("=")
    key_id = "key_" + draw(8).hex()
    async with database.begin() as connection:
        taken = select(api_keys.c.key_id).where(api_keys.c.name == name, api_keys.c.revoked_ms.is_(None))
        if (await connection.execute(taken)).first() is not None:
            raise Conflict(
                f"there is a key named {name!r} already: revoke it or choose another name", code="name_taken"
            )
        await create_budget(connection, key_id, limit_nano, now_ms=now_ms)
        await connection.execute(
            insert(api_keys).values(
                key_id=key_id,
                name=name,
                secret_hash=hash_secret(secret),
                prefix=secret[:_SHOWN],
                budget_id=key_id,
                requests_per_minute=requests_per_minute,
                expires_ms=expires_ms,
                created_ms=now_ms,
            )
        )
    return await load_key(database, key_id), secret


async def find_key(database: Database, secret: str) -> ApiKey | None:
    """Return the key of a secret, revoked and expired ones too, or None."""
    return await _first(database, _keys().where(api_keys.c.secret_hash == hash_secret(secret)))


async def load_key(database: Database, name_or_id: str) -> ApiKey:
    """Return a key by its id, or by its name unless it is revoked.

    Raises:
        NotFound: no such key; has the nearest names. Conflict: the name is a revoked key's alone; has its id.
    """
    key = await _first(database, _keys().where(api_keys.c.key_id == name_or_id))
    if key is None:
        key = await _first(database, _keys().where(api_keys.c.name == name_or_id, api_keys.c.revoked_ms.is_(None)))
    if key is None:
        known = await list_keys(database)
        if ended := [other for other in known if other.name == name_or_id]:
            raise _revoked(ended[-1])
        near = ", ".join(get_close_matches(name_or_id, [other.name for other in known], cutoff=0.3)) or "none"
        raise NotFound(f"there is no key {name_or_id!r}; the nearest: {near}", code="unknown_key")
    return key


async def list_keys(database: Database) -> list[ApiKey]:
    """Return all keys, the oldest first."""
    async with database.read() as connection:
        return [ApiKey(*row) for row in await connection.execute(_keys().order_by(api_keys.c.created_ms))]


async def revoke_key(database: Database, name_or_id: str, *, now_ms: int) -> ApiKey:
    """End a key for good; raises NotFound, or Conflict if it is revoked already."""
    key = await _load_live(database, name_or_id)
    async with database.begin() as connection:
        live = (api_keys.c.key_id == key.key_id, api_keys.c.revoked_ms.is_(None))
        await connection.execute(update(api_keys).where(*live).values(revoked_ms=now_ms))
    return await load_key(database, key.key_id)


_UNCHANGED: Any = object()


async def limit_key(
    database: Database,
    name_or_id: str,
    *,
    limit_nano: int | None = _UNCHANGED,
    requests_per_minute: int | None = _UNCHANGED,
    expires_ms: int | None = _UNCHANGED,
) -> ApiKey:
    """Change what a key may do; what is not given stays as it is, None lifts the limit.

    Raises:
        NotFound: no such key. Conflict: it is revoked already. BadRequest: a value out of range.
    """
    key = await _load_live(database, name_or_id)
    changes = {"requests_per_minute": requests_per_minute, "expires_ms": expires_ms}
    changes = {column: value for column, value in changes.items() if value is not _UNCHANGED}
    _check_rate(changes.get("requests_per_minute"))
    async with database.begin() as connection:
        if changes:
            await connection.execute(update(api_keys).where(api_keys.c.key_id == key.key_id).values(changes))
        if limit_nano is not _UNCHANGED:
            await change_limit(connection, key.budget_id, limit_nano)
    return await load_key(database, key.key_id)


async def _load_live(database: Database, name_or_id: str) -> ApiKey:
    key = await load_key(database, name_or_id)
    if key.revoked_ms is not None:
        raise _revoked(key)
    return key


def _revoked(key: ApiKey) -> Conflict:
    return Conflict(
        f"the key {key.name!r} ({key.key_id}) is revoked already, for good: make another with steelyard keys create",
        code="key_revoked",
    )


def _keys() -> Select[Any]:
    return select(
        api_keys.c.key_id,
        api_keys.c.name,
        api_keys.c.prefix,
        api_keys.c.requests_per_minute,
        api_keys.c.expires_ms,
        api_keys.c.revoked_ms,
        api_keys.c.created_ms,
        budgets.c.limit_nano,
        budgets.c.spent_nano,
        budgets.c.leased_nano,
    ).join_from(api_keys, budgets, api_keys.c.budget_id == budgets.c.budget_id)


async def _first(database: Database, query: Select[Any]) -> ApiKey | None:
    async with database.read() as connection:
        row = (await connection.execute(query)).first()
    return None if row is None else ApiKey(*row)


def _check_rate(requests_per_minute: int | None) -> None:
    if requests_per_minute is not None and not 0 < requests_per_minute <= 10**9:
        raise BadRequest(
            f"requests_per_minute is {requests_per_minute}: it must be between 1 and 10^9, or none",
            param="requests_per_minute",
        )
