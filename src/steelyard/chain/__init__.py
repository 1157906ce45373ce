"""The chain: what holds the money, and the one way that this package speaks to it.

| file | what |
|---|---|
| ``rpc.py``, ``transport.py`` | JSON-RPC over several endpoints |
| ``replies.py``, ``records.py`` | its errors as ours; blocks, logs and transaction receipts as records |
| ``transaction.py``, ``fees.py`` | EIP-1559 transactions written out; what to offer for gas |
| ``sender.py``, ``in_flight.py`` | one account's nonces; a transaction until its receipt |
| ``keystore.py`` | V3 key files, passphrases, marked development keys |
| ``abi.py``, ``contract.py``, ``reverts.py`` | calls, events and errors by the ABIs in ``artifacts/`` |
| ``yard.py``, ``registry.py``, ``escrow.py``, ``ledger.py``, ``court.py`` | one typed client per contract |
| ``cases.py``, ``proofs.py`` | what the court answers; what it needs no panel for |
| ``rewards.py`` | the pot of the protocol's cut: roots, claims |
| ``parameters.py``, ``terms.py``, ``reward_terms.py``, ``deployment.py`` | what a deployment is made of, and where |
| ``deploy.py``, ``journal.py`` | how it is made, and made on after a crash |
| ``indexer.py``, ``directory.py``, ``watch.py`` | events as blocks settle; who takes part; accounts and lanes |
| ``embedded/`` | our own chain: py-evm kept in SQLite behind JSON-RPC |

The same code runs against the embedded chain, anvil and any other EVM endpoint.
"""

from __future__ import annotations
