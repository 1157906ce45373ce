"""The provider's process: takes orders from gateways, runs services, signs batches of receipts, redeems vouchers.

Law: docs/spec/node.md, docs/spec/money.md.
"""

from __future__ import annotations
