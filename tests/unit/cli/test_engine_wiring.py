"""Engines as a node opens them: weights that are not there stop the start, whatever the manifest says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.service_world import LetterEngine

from steelyard.cli.engine_wiring import Engines, Ordered
from steelyard.cli.settings import NodeSection, ServiceEntry
from steelyard.errors import ConfigError
from steelyard.services.chat import ChatService
from steelyard.weights.cache import WeightCache


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("file:/none/model.gguf", "weight file /none/model.gguf does not exist"),
        ("", "the service 'letters' names no weights: set weights or base_url for it"),
    ],
)
def test_weights_that_are_missing_stop_the_start_with_one_line(tmp_path: Path, weights: str, message: str) -> None:
    """A file that is gone, or that nobody named, is one line with its name and what to set."""
    manifest = msgspec.structs.replace(ChatService.describe("letters", LetterEngine().info), weights=None)
    item = Ordered(ServiceEntry(name="letters", weights=weights), manifest)

    async def story() -> None:
        engines = Engines(NodeSection(), WeightCache(tmp_path), [item])
        try:
            await engines.open(item)
        finally:
            await engines.aclose()

    with pytest.raises(ConfigError) as caught:
        asyncio.run(story())
    assert caught.value.message == message


def test_engines_have_one_thread_for_each_batch_by_default() -> None:
    """More threads spin on two busy cores and slow everybody down; whoever has the cores sets more."""
    section = NodeSection()
    assert (section.engine_threads, section.engine_slots) == (1, 2)
