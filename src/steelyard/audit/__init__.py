"""The scale's own check: every balance rebuilt from chain and blobs alone.

1. Nothing here imports, asks or trusts a gateway or a node.
2. One block is pinned: every event and every contract's view is read as of it.
3. A contradiction makes the answer "no" and is named; something missing makes it "not provable", never "yes".

Importing this package loads nothing; `steelyard.audit.run` is the door.

Law: docs/spec/audit.md.
"""
