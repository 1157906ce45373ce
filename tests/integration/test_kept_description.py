"""What `steelyard up` keeps of its model: the second start loads nothing to describe it, and any doubt asks anew."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.llama_world import CACHE, fetch_test_model

from steelyard.cli import offerings
from steelyard.cli.genesis import ServicePlan
from steelyard.cli.offerings import KEPT_FILE, plan_smollm2
from steelyard.cli.settings_file import load_settings
from steelyard.engines.llama import LlamaEngine


def test_second_description_needs_no_model_and_any_change_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same plans come without an engine; another version, or a damaged file, loads the model again."""
    asyncio.run(fetch_test_model())
    settings = load_settings(tmp_path, {"weights": {"cache": CACHE}})
    loads: list[Path] = []
    prepare = LlamaEngine.prepare

    async def counted(self: LlamaEngine, progress: offerings.Progress) -> None:
        loads.append(self._path)
        await prepare(self, progress)

    def plan() -> list[ServicePlan]:
        return asyncio.run(plan_smollm2(settings, lambda what, done, total: None, kept=tmp_path / KEPT_FILE))

    monkeypatch.setattr(LlamaEngine, "prepare", counted)
    first = plan()
    assert (len(loads), plan(), len(loads)) == (1, first, 1)
    kept = msgspec.json.decode((tmp_path / KEPT_FILE).read_bytes())
    for number, change in enumerate(({"engine_version": "0"}, {"context_tokens": 1}, {"weights_sha256": "00"}), 2):
        (tmp_path / KEPT_FILE).write_bytes(msgspec.json.encode(kept | change))
        assert (plan(), len(loads)) == (first, number)
    (tmp_path / KEPT_FILE).write_bytes(b"{}")
    assert (plan(), len(loads)) == (first, 5)
