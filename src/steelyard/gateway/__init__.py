"""The buyer's process: OpenAI-compatible fronts, routing, budgets, receipts and vouchers.

Importing this package loads nothing; `steelyard.gateway.serve` brings in the server.

Law: docs/spec/gateway.md.
"""

from __future__ import annotations
