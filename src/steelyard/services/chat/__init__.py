"""The kind `chat`: text in, text out, by OpenAI's chat and completions APIs.

Law: docs/spec/kinds/chat.md.
"""

from __future__ import annotations

from steelyard.services.chat.service import ChatService

__all__ = ["ChatService"]
