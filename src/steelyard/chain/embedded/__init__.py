"""The embedded chain: an EVM chain kept in one SQLite file, with JSON-RPC over HTTP and WebSocket on localhost.

1. Nothing heavy is imported here; `server.serve` and `settings.ChainSettings` are the two doors.
2. A transaction is acknowledged only after its block (or, behind a nonce gap, its row in the queue) is committed.
3. eth-hash picks its backend at its first use, so the choice stands here, before any module of this package loads it:
   safe-pysha3 makes the EVM about a quarter faster than the default.

Law: docs/spec/embedded-chain.md.  Choice of engine: docs/decisions/002-embedded-chain-engine.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")
