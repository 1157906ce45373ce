"""Make the null that ships for SmolLM2-135M from the recordings: what `steelyard calibrate` measures, on more machines.

Honest answers of llama.cpp, whatever its threads, slots and batches. Replays by llama.cpp as validators run it are the
families `ordinary` and `gibberish`; replays by what rounds otherwise (its other kernel, torch) are families of their
own, so that the shipped bounds hold for both.

    python bench/verification/make_null.py         # writes src/steelyard/validator/nulls/smollm2-135m-instruct.json
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from recordings import RecordedAnswer, load_recordings

from steelyard.cli.offerings import CHAT, plan_smollm2
from steelyard.cli.settings_file import load_settings
from steelyard.services.manifest import decode_manifest, manifest_digest
from steelyard.verification.betting import weigh_answer
from steelyard.verification.calibration import GIBBERISH, ORDINARY, Pair, Sample, calibrate
from steelyard.verification.null import encode_null, null_digest
from steelyard.verification.scores import regime_of

NULL = Path(__file__).parents[2] / "src/steelyard/validator/nulls/smollm2-135m-instruct.json"
PROVIDERS = ("llama", "llama-lottery", "llama-2-threads", "llama-3-slots")
OTHER_KERNEL = "other-kernel"
"""What replays with other rounding are called; providers of that kernel replayed by the plain one count there, too."""


def samples(keep: Callable[[RecordedAnswer], bool] = lambda _: True) -> list[Sample]:
    """Every honest answer of llama.cpp that is to be kept, as each validator scored it."""
    found = []
    for recording in load_recordings():
        is_plain = recording.provider in PROVIDERS and recording.validator == "llama"
        if not recording.is_honest or not recording.provider.startswith("llama"):
            continue
        for answer in filter(keep, recording.answers):
            family = GIBBERISH if answer.sort == "gibberish" else ORDINARY
            family = family if is_plain else f"{family} {OTHER_KERNEL}"
            regime = regime_of(answer.sampling.temperature)
            found.append(Sample(family=family, regime=regime, positions=answer.scores))
    return found


def main() -> None:
    """Write the null, and say what it makes of every recording."""
    plans = asyncio.run(plan_smollm2(load_settings(Path("~/.steelyard").expanduser()), lambda *_: None))
    blob = next(plan.manifest for plan in plans if plan.name == CHAT)
    manifest = decode_manifest(blob)
    engine = f"{manifest.engine} {manifest.engine_version}"
    pair = Pair(manifest=manifest_digest(blob).hex(), provider_engine=engine, validator_engine=engine)
    null = calibrate(samples(), pair)
    NULL.write_bytes(encode_null(null))
    print(f"{NULL.name}: {null.answers} replays, {null.tokens} tokens, sha256 {null_digest(NULL.read_bytes()).hex()}")
    for recording in load_recordings():
        weighed = sorted(
            weigh_answer(null, regime_of(answer.sampling.temperature), answer.scores).log_e
            for answer in recording.answers
        )
        low, middle, high = weighed[len(weighed) // 10], weighed[len(weighed) // 2], weighed[-1]
        name = f"{recording.provider} by {recording.validator}"
        print(f"{name:>34} nats an answer: {low:7.1f} {middle:7.1f} {high:7.1f} (a tenth below, half, highest)")


if __name__ == "__main__":
    main()
