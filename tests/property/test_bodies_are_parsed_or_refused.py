"""Whatever a caller or a provider sends, the pure side of every kind answers, or refuses it by name."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.service_world import SAMPLES, LetterEngine

from steelyard.errors import BadMessage, BadRequest
from steelyard.services.bodies import ChatBody, CompletionBody, EmbeddingsBody
from steelyard.services.chat.evidence import CLAIM_TAG, REPLAY_TAG, compare_rows, decode_claim, encode_replay
from steelyard.services.discovery import installed_services
from steelyard.services.manifest import decode_manifest, encode_manifest

ENGINE = LetterEngine()
SERVICES = [
    kind(kind.describe("anvil" if name == "rpc" else name, ENGINE.info))
    for name, kind in sorted(installed_services().kinds.items())
]
NAMES = sorted({*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__, *EmbeddingsBody.__struct_fields__})
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_fields = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), _json, max_size=4)


def _parse_everywhere(body: bytes) -> None:
    for service in SERVICES:
        for api in SAMPLES:
            with suppress(BadRequest):
                quote = service.quote(service.parse(api, body))
                assert quote.max_units_in >= 0
                assert quote.max_units_out >= 0


@given(_fields, st.sampled_from(sorted(SAMPLES)))
def test_any_fields_beside_a_good_body_are_parsed_or_refused(fields: dict[str, Any], api: str) -> None:
    """Known and unknown fields of any type and depth, on every API of every kind."""
    _parse_everywhere(json.dumps({**SAMPLES[api], **fields}).encode())


@given(st.binary(max_size=64))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    """Bytes that are hardly ever a request."""
    _parse_everywhere(body)


@given(st.binary(max_size=200), st.sampled_from([b"", CLAIM_TAG, REPLAY_TAG]), st.integers(0, 4))
def test_any_evidence_is_read_or_refused(noise: bytes, tag: bytes, count: int) -> None:
    """Untrusted evidence never raises anything but its own refusal, and comparing it never raises."""
    blob = tag + bytes(7) + bytes([count]) + noise if tag else noise
    for expected in (CLAIM_TAG, REPLAY_TAG):
        with suppress(BadMessage):
            decode_claim(blob, expected)
    compare_rows(blob, encode_replay(1, b"", []))


@given(_fields)
def test_any_manifest_is_read_or_refused(fields: dict[str, Any]) -> None:
    """A stranger's manifest is whole and possible, or refused."""
    good = json.loads(encode_manifest(SERVICES[0].manifest))
    with suppress(BadMessage):
        decode_manifest(json.dumps({**good, **fields}).encode())
