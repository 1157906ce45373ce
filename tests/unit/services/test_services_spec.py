"""docs/spec/services.md and docs/spec/kinds/: the law and the code name the same things and the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from steelyard.services.bodies import MAX_STOPS
from steelyard.services.body_reader import HARMLESS, NEUTRAL
from steelyard.services.chat.evidence import (
    BREACH_TAG,
    BREACHES,
    CLAIM_TAG,
    DISTANCE_CLIP,
    FLOOR,
    RELAY_TAG,
    REPLAY_TAG,
    ROW_BYTES,
    STEPS_PER_NAT,
)
from steelyard.services.chat.replays import SECOND_TAG
from steelyard.services.chat.service import RELAY_PARAMETERS, STEP_PARAMETERS
from steelyard.services.discovery import installed_services
from steelyard.services.echo import PARAMETERS as ECHO_PARAMETERS
from steelyard.services.embeddings.distance import BOUNDS
from steelyard.services.embeddings.service import BATCH, EXTRA_TOKENS
from steelyard.services.manifest import MAX_MANIFEST_BYTES, Manifest
from steelyard.services.rest import requests as rest_requests
from steelyard.services.rest import service as rest_service
from steelyard.services.rest import upstream as rest_upstream
from steelyard.services.rpc import blame as rpc_blame
from steelyard.services.rpc import messages as rpc_messages
from steelyard.services.rpc import service as rpc_service
from steelyard.services.rpc import upstream as rpc_upstream
from steelyard.services.rpc.catalogue import Family
from steelyard.services.rpc.comparing import REPLAY_TAG as RPC_REPLAY_TAG
from steelyard.services.rpc.pinning import MAX_PARAMS_BYTES
from steelyard.services.rpc.subscriptions import PING_S
from steelyard.weights.http import FRUITLESS_TRIES

SPEC = Path(__file__).parents[3] / "docs" / "spec"
SERVICES = (SPEC / "services.md").read_text()
KINDS = installed_services().kinds


def row(page: str, name: str) -> str:
    """The second cell of a table's row."""
    found = re.search(rf"^\| {re.escape(name)} \| (.+?) \|$", page, flags=re.MULTILINE)
    assert found, name
    return found[1]


def words(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([a-z_.]+)`", cell)


def test_manifest_fields_are_the_laws() -> None:
    """Every field of a manifest has its line, and no line is of a field that there isn't."""
    section = SERVICES.split("## 1. Manifests")[1].split("## 2.")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)
    assert {name for cell in cells for name in words(cell)} == set(Manifest.__struct_fields__)
    assert f"{MAX_MANIFEST_BYTES:,} bytes" in " ".join(section.split())


def test_fields_that_pass_are_the_laws() -> None:
    """Neutral fields and harmless values are those that the page lists."""
    section = SERVICES.split("## 3. Requests")[1].split("## 4.")[0]
    first, second = re.findall(r"^\d\. (.+?)(?=^\d\. |^$)", section, flags=re.MULTILINE | re.DOTALL)[:2]
    assert set(words(first.partition("pass:")[2])) == NEUTRAL
    second_text = " ".join(second.split())
    for name in HARMLESS:
        assert f"`{name}" in second_text or (name.endswith("_penalty") and "penalties of 0" in second_text), name


@pytest.mark.parametrize("name", sorted(set(KINDS) & {"echo", "chat", "embeddings", "rest", "rpc"}))
def test_kind_declares_what_its_page_says(name: str) -> None:
    """Unit, check and APIs on the page are those of the class."""
    page, kind = (SPEC / "kinds" / f"{name}.md").read_text(), KINDS[name]
    assert re.findall(r"`([a-z ]+)`", row(page, "unit"))[0] == kind.unit
    assert words(row(page, "check"))[0] == kind.check
    assert set(words(row(page, "APIs"))) == kind.apis


def test_parameters_are_the_pages() -> None:
    """What the pages call honoured is what the manifests list."""
    chat, echo = (SPEC / "kinds" / "chat.md").read_text(), (SPEC / "kinds" / "echo.md").read_text()
    assert tuple(words(row(chat, "parameters, stepped"))) == STEP_PARAMETERS
    assert tuple(words(row(chat, "parameters, relayed"))) == RELAY_PARAMETERS
    assert tuple(words(row(echo, "parameters"))) == ECHO_PARAMETERS


def test_numbers_are_the_pages() -> None:
    """Row size, steps, floor, clip, tags, stops and batches stand in the law as they stand in the code."""
    chat, embeddings = (SPEC / "kinds" / "chat.md").read_text(), (SPEC / "kinds" / "embeddings.md").read_text()
    for text in (
        f"{ROW_BYTES} bytes per sampled token",
        f"steps of 1/{STEPS_PER_NAT}; {FLOOR}",
        f"each cut to {DISTANCE_CLIP:.0f}",
        f"at most {MAX_STOPS}",
        *(f"`{tag.decode()}`" for tag in (BREACH_TAG, CLAIM_TAG, REPLAY_TAG, RELAY_TAG, SECOND_TAG)),
        *(f"| `{code}` |" for code in BREACHES),
    ):
        assert text in " ".join(chat.split()), text
    assert f"its bytes plus {EXTRA_TOKENS}" in embeddings
    assert f"of {BOUNDS.cosine_gap:.4f} and {BOUNDS.ulps:.0f} such units" in " ".join(embeddings.split())
    assert f"at most {BATCH} a chunk" in " ".join(embeddings.split())
    assert {5: "five"}[FRUITLESS_TRIES] + " tries in a row" in " ".join(SERVICES.split())


def test_relays_numbers_are_the_pages() -> None:
    """Bounds, codes, statuses and tags of rpc and rest stand in the law as they stand in the code."""
    rpc = " ".join((SPEC / "kinds" / "rpc.md").read_text().split())
    rest = " ".join((SPEC / "kinds" / "rest.md").read_text().split())
    for text in (
        f"at most {rpc_messages.MAX_ITEMS:,}",
        f"at most {rpc_messages.MAX_ID_BYTES} bytes",
        f"1 to {rpc_messages.MAX_METHOD_CHARS} of",
        f"`max_messages` ({rpc_service.MESSAGES}; 1 to {rpc_service.MAX_MESSAGES})",
        f"`max_s` ({rpc_service.SECONDS}; 1 to {rpc_service.MAX_SECONDS})",
        f"over {MAX_PARAMS_BYTES:,} bytes",
        f"over {rpc_upstream.MAX_ANSWER_BYTES:,} bytes",
        f"{rpc_upstream.FAN_OUT} at once",
        f"`{RPC_REPLAY_TAG.decode()}`",
        f"pings ({PING_S:.0f} s)",
        *(f"`{option}`" for option in rpc_service.OPTIONS),
    ):
        assert text in rpc, text
    codes = rpc.partition("codes `")[2].partition("answers that")[0]
    told = {int(code) for code in re.findall(r"(-32\d{3}|429)`", codes)}
    assert told | {-32098} == rpc_blame.NODE_CODES | {rpc_blame.INTERNAL}
    for text in (
        f"at most {rest_requests.MAX_PATH_CHARS:,} characters",
        f"at most {rest_requests.MAX_QUERY_CHARS:,} characters",
        f"at most {rest_requests.MAX_BODY_BYTES:,} bytes",
        f"at most {rest_upstream.MAX_ANSWER_BYTES:,}",
        *(str(status) for status in rest_upstream.OWN_FAULTS),
        *(f"`{option}`" for option in rest_service.OPTIONS),
    ):
        assert text in rest, text


def test_families_fields_are_the_laws() -> None:
    """Every field of a family's row has its line."""
    section = (SPEC / "kinds" / "rpc.md").read_text().split("## 2.")[1].split("## 3.")[0]
    named = {name for cell in re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE) for name in words(cell)}
    fields = {"default_units" if name == "units" else name for name in named} - {"extends"}
    assert fields == set(Family.__struct_fields__) - {"name", "is_zero_newest"}
    assert "`is_zero_newest`" in (SPEC / "kinds" / "rpc.md").read_text()
