"""Read the committed recordings; needs no model, no torch and no numpy. The format: README.md beside this file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.protocol.sampler import SamplerParams
from steelyard.services.chat.evidence import STEPS_PER_NAT
from steelyard.services.port import Score

RECORDINGS = Path(__file__).parent / "recordings"
FORMAT = "steelyard-recording-1"
MARGIN_STEPS, LEAD_STEPS, ENTROPY_STEPS = 4096, 1024, 1024


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """One answer: which request of `prompts.REQUESTS`, its sort and sampling, and a score for each token."""

    request: int
    sort: str
    sampling: SamplerParams
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """A provider's answers as a validator scored them."""

    provider: str
    validator: str
    is_honest: bool
    answers: tuple[RecordedAnswer, ...]


def load_recordings() -> list[Recording]:
    """Return every committed recording, by name."""
    return [load_recording(path) for path in sorted(RECORDINGS.glob("*.json.gz"))]


def load_recording(path: Path) -> Recording:
    """Return one recording.

    Raises:
        ValueError: it is of another format, or its columns are of different lengths.
    """
    found = json.loads(gzip.decompress(path.read_bytes()))
    if found["format"] != FORMAT:
        raise ValueError(f"{path} is a {found['format']}, expected {FORMAT}: record it anew")
    scores = _scores(found)
    answers = tuple(
        RecordedAnswer(
            answer["request"],
            answer["sort"],
            SamplerParams(answer["temperature"], answer["top_p"], answer["top_k"]),
            tuple(score for _, score in zip(range(answer["tokens"]), scores, strict=False)),
        )
        for answer in found["answers"]
    )
    if next(scores, None) is not None or any(len(answer.scores) == 0 for answer in answers):
        raise ValueError(f"{path} has other counts of tokens than its answers say")
    return Recording(found["provider"], found["validator"], found["is_honest"], answers)


def _scores(found: dict[str, Any]) -> Iterator[Score]:
    columns = (found["margin"], found["gap"], found["entropy"], found["lead"])
    for margin, gap, entropy, lead in zip(*columns, strict=True):
        yield Score(margin == 0, margin / MARGIN_STEPS, gap / STEPS_PER_NAT, entropy / ENTROPY_STEPS, lead / LEAD_STEPS)
