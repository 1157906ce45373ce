"""The kind `embeddings`: texts in, vectors of unit length out.

Law: docs/spec/kinds/embeddings.md.
"""

from __future__ import annotations

from steelyard.services.embeddings.service import EmbeddingsService

__all__ = ["EmbeddingsService"]
