"""What a process must still know after `kill -9`: one database, a folder of blobs, and the writer in front of them.

Importing this package loads nothing; SQLAlchemy comes with `storage.database`.

Law: docs/spec/storage.md.
"""
