"""Probes: conversations like users', texts that don't come again, over the gateway that their form came from."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from steelyard.errors import ConfigError, Unavailable
from steelyard.validator import probes
from steelyard.validator.probes import Bought, Prober, ProbeShop, load_prompts

ONE, TWO = "http://one", "http://two"


class RecordingShop(ProbeShop):
    """A gateway that answers every question with `re: ` and the question."""

    def __init__(self, *, is_silent: bool = False) -> None:
        super().__init__({ONE: "key", TWO: "key"})
        self.sold: list[tuple[str, str, dict[str, Any]]] = []
        self.asked: list[bytes] = []
        self._is_silent = is_silent

    async def buy(self, url: str, path: str, body: bytes, *, only: bytes = b"") -> Bought:
        fields = json.loads(body)
        self.asked.append(only)
        self.sold.append((url, path, fields))
        if self._is_silent:
            raise Unavailable("no answer")
        text = "re: " + fields["messages"][-1]["content"]
        answer = {"choices": [{"message": {"content": text}}]}
        return Bought(len(self.sold).to_bytes(32, "big"), b"\x01" * 20, json.dumps(answer).encode())


def _prober(shop: ProbeShop, prompts: int = 50) -> Prober:
    return Prober(shop, probes_per_hour=1, prompts=[f"prompt {index}" for index in range(prompts)], thinking_s=1e-4)


def _body(turns: int, **options: Any) -> bytes:
    said = [{"role": ("user", "assistant")[index % 2], "content": "a user's text"} for index in range(2 * turns + 1)]
    return json.dumps({"model": "m", "messages": said, **options}).encode()


def test_probe_without_any_users_call_buys_nothing() -> None:
    """It has no form that could hide it."""
    shop = RecordingShop()
    assert asyncio.run(_prober(shop).probe()) is None
    assert shop.sold == []


def test_conversation_goes_on_with_what_was_answered_over_one_gateway() -> None:
    """As users' second calls do: the first question, its true answer, another question, the same made-up user."""
    shop = RecordingShop()
    prober = _prober(shop)
    for turns in (0, 1):
        prober.learn("chat.completions", "m", _body(turns, user="u-1"), TWO)
    bought = asyncio.run(prober.probe())
    assert bought is not None
    first, second = shop.sold
    assert first[:2] == second[:2] == (TWO, "/v1/chat/completions")
    (question,) = first[2]["messages"]
    assert second[2]["messages"][:2] == [question, {"role": "assistant", "content": "re: " + question["content"]}]
    assert first[2]["user"] == second[2]["user"] != "u-1"
    assert prober.answered == 2
    assert prober.receipts == {(1).to_bytes(32, "big"), (2).to_bytes(32, "big")}


def test_as_many_conversations_go_on_as_users_do() -> None:
    """With one second call for four first ones, about a quarter of the probes ask again."""
    shop = RecordingShop()
    prober = _prober(shop, prompts=2_000)
    for turns in (0, 0, 0, 0, 1):
        prober.learn("chat.completions", "m", _body(turns), ONE)

    async def probe() -> None:
        for _ in range(400):
            await prober.probe()

    asyncio.run(probe())
    assert 60 <= len(shop.sold) - 400 <= 140
    assert prober.pause_s() >= 0


def test_no_prompt_comes_again_before_all_were_asked() -> None:
    """A text that a provider has seen before would be known for a probe's."""
    shop = RecordingShop()
    prober = _prober(shop, prompts=40)
    prober.learn("chat.completions", "m", _body(0), ONE)

    async def probe() -> None:
        for _ in range(40):
            await prober.probe()

    asyncio.run(probe())
    assert len({fields["messages"][0]["content"] for _, _, fields in shop.sold}) == 40


def test_text_is_about_as_long_as_the_users() -> None:
    """Long questions get long probes, of several prompts if need be."""
    shop = RecordingShop()
    prober = _prober(shop)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 900}]}).encode()
    prober.learn("chat.completions", "m", body, ONE)
    asyncio.run(prober.probe())
    assert 450 <= len(shop.sold[0][2]["messages"][0]["content"]) <= 1_800


def test_failed_call_ends_the_conversation_and_is_counted() -> None:
    """A gateway that doesn't answer: nothing is bought, nothing is kept."""
    prober = _prober(RecordingShop(is_silent=True))
    for turns in (0, 1):
        prober.learn("chat.completions", "m", _body(turns), ONE)
    assert asyncio.run(prober.probe()) is None
    assert (prober.answered, prober.failed, prober.receipts) == (0, 1, set())


def test_form_of_an_unknown_gateway_is_used_over_one_that_the_shop_knows() -> None:
    """Its key is for others."""
    shop = RecordingShop()
    prober = _prober(shop)
    prober.learn("chat.completions", "m", _body(0), "http://elsewhere")
    asyncio.run(prober.probe())
    assert shop.sold[0][0] in (ONE, TWO)


def test_own_prompts_are_read_from_a_file_or_refused(tmp_path: Path) -> None:
    """One a line; a file that isn't there or is empty is named, with what to do."""
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\n  \ntwo\n", "utf-8")
    assert load_prompts(file) == ["one", "two"]
    assert len(load_prompts()) > 10
    file.write_text("\n", "utf-8")
    for path, reason in ((file, "is empty"), (tmp_path / "none.txt", "can't be read")):
        with pytest.raises(ConfigError, match=reason):
            load_prompts(path)


def test_newcomer_is_owed_one_long_probe_for_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes soon, from that provider alone, over that gateway, in the form of a long call of that model."""
    monkeypatch.setattr(probes, "NEWCOMER_PAUSE_S", 1e-3)
    shop, newcomer = RecordingShop(), b"\x09" * 20
    prober = _prober(shop)
    prober.learn("chat.completions", "other", _body(0, seed=7), ONE, is_long=True)
    prober.learn("chat.completions", "m", _body(0, max_tokens=3), ONE)
    prober.learn("chat.completions", "m", _body(0, max_tokens=300), ONE, is_long=True)

    async def story() -> None:
        prober.owe(newcomer, "m", TWO)
        async with asyncio.timeout(5):  # an hour, were it not owed
            await prober.wait()
        await prober.probe()
        await prober.probe()

    asyncio.run(story())
    assert shop.asked == [newcomer, b""]
    url, _, body = shop.sold[0]
    assert (url, body["max_tokens"]) == (TWO, 300)
    assert newcomer.hex() not in json.dumps(body)
