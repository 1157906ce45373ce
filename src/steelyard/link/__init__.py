"""The wire between node and gateway: frames, many calls on one WebSocket, resume.

Law: docs/spec/link.md.
"""

from __future__ import annotations
