"""The third process: checks receipts, signs verdicts, opens challenges, sits on panels.

It meets gateways over HTTP and everyone on the chain; it imports neither `gateway` nor `node`.

Law: docs/spec/validator.md.
"""
