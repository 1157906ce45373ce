"""Embeddings of the real model under the calibration that ships: honest vectors pass, cheaper ones fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.llama_world import fetch_test_model, opened
from tests.service_world import collect, ignore

from steelyard.cli.offerings import EMBEDDINGS, plan_smollm2
from steelyard.cli.settings_file import load_settings
from steelyard.engines.llama import LlamaEngine
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Grade, Order, Outcome, Receipt, content_hash
from steelyard.services.embeddings import EmbeddingsService
from steelyard.services.manifest import decode_manifest, manifest_digest
from steelyard.services.port import Context, Result
from steelyard.validator.calibrations import Calibrations
from steelyard.validator.checker import Checkable, Checked, check_call
from steelyard.validator.gateway_client import ShownCall
from steelyard.validator.replayer import OwnReplayer

SALT = b"\x05" * 32
TEXTS = [f"What does a steelyard weigh, and how much of item {number} at most?" for number in range(6)]


async def _served(service: EmbeddingsService, texts: list[str]) -> Result:
    body = json.dumps({"model": "m", "input": texts}).encode()
    result, _ = await collect(service, service.parse("embeddings", body))
    return result


async def _check(service: EmbeddingsService, checkable: Checkable, sold: Result) -> Checked:
    """Check vectors that were sold for the texts, and billed as the texts are."""
    body = json.dumps({"model": "m", "input": TEXTS}).encode()
    billed = (await _served(service, TEXTS)).units_in
    parties = (b"\x01" * 16, b"\x02" * 20, b"\x03" * 20, b"\x04" * 32, 1)
    order = Order(*parties, content_hash(SALT, body), ZERO32, 1, Grade.STATISTICAL, 1, 1, 10**9, 10**13)
    counts = (billed, sold.units_out, 1, 1, 2, int(sold.finish))
    receipt = Receipt(order.struct_hash(), 0, content_hash(SALT, sold.content), ZERO32, *counts)

    async def call() -> ShownCall:
        return ShownCall("embeddings", body, sold.content, SALT)

    async def evidence() -> bytes:
        return b""

    return await check_call(order, receipt, checkable, call, evidence)


@pytest.mark.timeout(180)
def test_shipped_calibration_passes_honest_vectors_and_fails_cheaper_ones(tmp_path: Path) -> None:
    """Each text by itself, or all at once: the same vectors. Half of each text, to save the other half: found."""

    async def story() -> None:
        await fetch_test_model()
        plans = await plan_smollm2(load_settings(tmp_path), ignore)
        blob = next(plan.manifest for plan in plans if plan.name == EMBEDDINGS)
        manifest = decode_manifest(blob)
        engine_name = f"{manifest.engine} {manifest.engine_version}"
        null = Calibrations(tmp_path / "none").find(manifest_digest(blob), engine_name, engine_name)
        assert null is not None
        async with opened() as engine:
            assert isinstance(engine, LlamaEngine)
            service = EmbeddingsService(manifest, engine=engine)
            checkable = Checkable(service, False, OwnReplayer(service, engine_name), null)
            alone = [(await _served(service, [text])).content for text in TEXTS]
            whole = await _served(service, TEXTS)
            for contents in (whole.content, b"".join(alone)):
                honest = Result(content=contents, units_in=0, units_out=whole.units_out, finish=whole.finish)
                said = (await _check(service, checkable, honest)).judgement
                assert (said.outcome, said.reason) == (Outcome.PASS, "")
            cheap = await _served(service, [text[: len(text) // 2] for text in TEXTS])
            said = (await _check(service, checkable, cheap)).judgement
            assert (said.outcome, said.reason) == (Outcome.FAIL, "improbable")
            replayed = await service.replay(
                service.parse("embeddings", json.dumps({"model": "m", "input": TEXTS}).encode()), whole, b"", Context()
            )
            assert service.compare(whole, b"", replayed).positions == len(TEXTS)

    asyncio.run(story())
