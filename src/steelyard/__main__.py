"""``python -m steelyard``: the same as the ``steelyard`` command."""

from __future__ import annotations

from steelyard.cli.app import main

if __name__ == "__main__":
    main()
