"""The ``steelyard`` command: the only room that builds objects and hands them to the others.

1. A module here imports nothing heavy at its top: ``steelyard --help`` answers within a second.
2. A command checks its input, wires the rooms, prints what happened and what to do next; it decides nothing itself.
3. Where a script would read the answer, ``--json`` prints one JSON value and nothing else on standard output.

Law: docs/cli.md.
"""
