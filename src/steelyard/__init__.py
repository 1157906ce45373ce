"""Steelyard: an open market for AI with an honest scale.

Importing this package loads nothing else: every room is imported where it is used.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
