"""cli/grades.py: an offer without a grade gets what its manifest allows, and never more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.service_world import LetterEngine, ScriptedRelay

from steelyard.cli.grades import find_grade
from steelyard.cli.settings_file import load_settings
from steelyard.protocol.messages import Grade
from steelyard.services.chat import ChatService
from steelyard.services.echo import EchoService
from steelyard.services.embeddings import EmbeddingsService
from steelyard.services.manifest import Manifest, encode_manifest, manifest_digest
from steelyard.storage.blobs import FolderBlobs

LETTERS = LetterEngine().info


@pytest.mark.parametrize(
    ("manifest", "grade"),
    [
        (EchoService.describe("echo"), Grade.EXACT),
        (ChatService.describe("chat", LETTERS), Grade.STATISTICAL),
        (EmbeddingsService.describe("vectors", LETTERS), Grade.STATISTICAL),
        (ChatService.describe("relay", ScriptedRelay([], ("logprobs",)).info), Grade.LOGPROBS),
        (ChatService.describe("relay", ScriptedRelay([]).info), Grade.UNCHECKED),
    ],
)
def test_grade_is_what_the_manifest_allows(tmp_path: Path, manifest: Manifest, grade: Grade) -> None:
    """Exact, statistical, logprobs or unchecked: the kind says it from the manifest alone."""
    settings, blob = load_settings(tmp_path), encode_manifest(manifest)
    asyncio.run(FolderBlobs(settings.blobs_folder).put(blob))
    assert asyncio.run(find_grade(settings, manifest_digest(blob))) == grade


def test_grade_of_a_manifest_that_is_not_here_is_unchecked(tmp_path: Path) -> None:
    """What this machine can't read it doesn't promise anything of."""
    assert asyncio.run(find_grade(load_settings(tmp_path), b"\x07" * 32)) == Grade.UNCHECKED
