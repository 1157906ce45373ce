"""The chain: what holds the money, and the one way that this package speaks to it.

| file | what |
|---|---|
| ``rpc.py``, ``transport.py`` | JSON-RPC over several endpoints |
| ``replies.py``, ``records.py`` | its errors as ours; blocks, logs and transaction receipts as records |
| ``transaction.py``, ``sender.py`` | EIP-1559 transactions written out; one account's nonces, fees and waiting |
| ``keystore.py`` | V3 key files, passphrases, marked development keys |
| ``contract.py``, ``reverts.py`` | calls, events and errors by the ABIs in ``artifacts/`` |
| ``yard.py``, ``registry.py``, ``escrow.py``, ``ledger.py`` | one typed client per contract |
| ``parameters.py``, ``deployment.py``, ``deploy.py`` | what a deployment is made of, where it stands, how it is made |
| ``indexer.py``, ``watch.py`` | events as blocks settle; balances and lanes as they change |
| ``embedded/`` | our own chain: py-evm kept in SQLite behind JSON-RPC |

The same code runs against the embedded chain, anvil and any other EVM endpoint.
"""

from __future__ import annotations
