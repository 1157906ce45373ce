"""The form of a request keeps every byte but texts, names and seeds, and nothing of a person's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from steelyard.validator.forms import APP_CALLS, MAX_FORM_BYTES, Form, made_up, read_form
from steelyard.validator.probes import Prober, ProbeShop, text_of

TALK = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "grüß Gott"},
    {"role": "assistant", "content": 'he said "hm"\n'},
    {"role": "user", "content": "and now?"},
]
SAID = ["grüß Gott", 'he said "hm"\n', "and now?"]


def _always(system: str) -> bool:
    return True


def _form(body: bytes, is_app: Callable[[str], bool] = _always) -> Form:
    form = read_form(body, is_app)
    assert form is not None
    return form


def _write(form: Form, said: list[str], names: list[str] | None = None) -> bytes:
    return form.write(said, names or [], random.Random(1))


@pytest.mark.parametrize("style", [{}, {"separators": (",", ":"), "ensure_ascii": False}, {"indent": 2}])
def test_form_filled_with_the_same_texts_is_the_same_request(style: dict[str, Any]) -> None:
    """As Python, JavaScript and people write JSON: spaces, escapes, order and numbers come back to the byte."""
    body = json.dumps({"messages": TALK, "top_p": 0.90, "model": "m", "stop": ["\n\n"], "n": 1}, **style).encode()
    assert _write(_form(body), SAID) == body


def test_number_written_unusually_stays_as_it_is() -> None:
    """1.0 and 1e0 are not rewritten: a provider sees the difference."""
    body = b'{ "model":"m","temperature":1e0 ,"prompt":"x", "top_p":1.0}'
    assert _write(_form(body), ["x"]) == body


def test_form_holds_no_text_of_a_person() -> None:
    """Neither questions, answers, names nor ids are in it."""
    body = json.dumps(
        {"messages": TALK, "user": "anna-47110815471108154711", "metadata": {"case": "q77-never-said"}, "seed": 1234567}
    ).encode()
    kept = repr(_form(body))
    for text in ("grüß", "gr\\u00fc", 'said "hm', "and now", "47110815471108154711", "never-said", "1234567"):
        assert text not in kept


def test_seed_and_names_are_others_of_the_same_shape() -> None:
    """A seed has as many digits, a name the same letters' and digits' places."""
    form = _form(b'{"prompt":"x","seed":4711,"user":"id-00ff-Zed"}')
    (name,) = form.names
    fields = json.loads(_write(form, ["y"], [made_up(name.shape, random.Random(2))]))
    assert 1000 <= fields["seed"] <= 9999
    user = fields["user"]
    assert (len(user), user[:2].islower(), user[2], user[3:5].isdigit(), user[8].isupper()) == (
        11,
        True,
        "-",
        True,
        True,
    )
    assert user != "id-00ff-Zed"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"messages":[1]}',
        b'{"messages":[{"role":"user"}]}',
        b'{"messages":[{"content":"x"}]}',
        b'{"messages":[{"role":"assistant","content":"x"}]}',
        b'{"messages":[{"role":"user","content":null}]}',
        b'{"messages":[{"role":"user","content":"x","name":3}]}',
        b'{"messages":[{"role":["user"],"content":"x"}]}',
        b'{"messages":{"role":"user","content":"x"}}',
        b'{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]}',
        b'{"prompt":"x","suffix_of_mine":"' + b"y" * 65 + b'"}',
        b'{"prompt":"x","pad":[' + b"1," * MAX_FORM_BYTES + b"1]}",
        b'{"prompt":"x","deep":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"prompt":"x"}\xff',
        b'{"prompt":NaN}',
    ],
)
def test_request_that_keeps_its_form_to_itself_is_passed_over(body: bytes) -> None:
    """Tools, long strings, other conversations, and what is no request at all."""
    assert read_form(body, _always) is None


def test_system_message_is_kept_once_it_is_an_apps() -> None:
    """Before it came in several calls it might be a person's, and its form isn't learned."""
    prober = Prober(ProbeShop({"http://gateway": "key"}), probes_per_hour=1, prompts=["p"])
    body = json.dumps({"messages": TALK[:2]}).encode()
    for count in range(1, APP_CALLS + 2):
        prober.learn("chat.completions", "m", body, "http://gateway")
        assert len(prober._forms) == max(0, count - APP_CALLS + 1)


def test_calls_of_one_conversation_are_of_one_kind() -> None:
    """So that a probe goes on as its app does; with other settings it is another kind."""
    first, second = (_form(json.dumps({"messages": TALK[:end], "n": 1}).encode()) for end in (2, 4))
    other = _form(json.dumps({"messages": TALK[:2], "n": 2}).encode())
    assert first.kind == second.kind != other.kind
    assert (first.turns, second.turns) == (0, 1)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"choices":[{"message":{"content":"hi"}}]}', "hi"),
        (b'data: {"choices":[{"delta":{"content":"h"}}]}\n\ndata: {"choices":[{"delta":{"content":"i"}}]}\n\n', "hi"),
        (b'data: {"choices":[{"delta":{}}]}\n\ndata: [DONE]\n\n', ""),
        (b'{"data":[]}', ""),
        (b"what", ""),
    ],
)
def test_text_of_an_answer_is_read_from_either_form(body: bytes, text: str) -> None:
    """Whole, streamed, or none: a conversation goes on with what was answered."""
    assert text_of(body) == text
