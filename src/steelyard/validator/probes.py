"""Calls that a validator buys itself, as an ordinary client of ordinary gateways: nobody can tell them from users'.

1. A probe takes its form from users' requests that were checked: which fields there are, in which order, with which
   values. Of their texts nothing is kept; its own come from a pool of prompts.
2. It is bought at random moments, with an ordinary key, at the list price; the gateway chooses the provider as for
   anyone.
3. Replays are bought the same way (`replayer.BoughtReplayer`).

Law: docs/spec/validator.md, section 4.
"""

from __future__ import annotations

import base64
import json
import random
from collections import deque
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import aiohttp
import msgspec

from steelyard.errors import BadMessage, Unavailable

TIMEOUT_S = 300.0
MAX_FORMS = 256
MAX_ANSWER_BYTES = 32 * 1024 * 1024
_TEXTS = frozenset({"messages", "prompt", "input", "model", "user", "metadata"})
_PATHS = {"chat.completions": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}
_PLAIN_FORM: dict[str, Any] = {"messages": None, "model": None, "max_tokens": 128}


class Bought(msgspec.Struct, frozen=True):
    """What an ordinary client learns of its call."""

    receipt_hash: bytes
    provider: bytes
    body: bytes


class ProbeShop:
    """Buys over gateways with ordinary API keys; `aclose` when done.

    Args:
        keys: by the gateways' base URLs, without ``/v1``; at least one.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self.urls = list(keys)
        self._keys = dict(keys)
        self._http: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()

    async def buy(self, url: str, path: str, body: bytes) -> Bought:
        """Send one request and return what came back; raises Unavailable for anything but a whole answer."""
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        headers = {"Authorization": f"Bearer {self._keys[url]}", "Content-Type": "application/json"}
        try:
            async with self._http.post(url + path, data=body, headers=headers) as answer:
                content = await answer.content.read(MAX_ANSWER_BYTES)
                status, shown = answer.status, answer.headers
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{url} does not answer: {error or type(error).__name__}") from error
        if status != 200:
            raise Unavailable(f"{url}{path} answers with status {status}: {content[:200].decode('utf-8', 'replace')}")
        try:
            provider = bytes.fromhex(shown["x-steelyard-provider"][2:])
            receipt = shown.get("x-steelyard-receipt") or _receipt_of_stream(content)
            return Bought(bytes.fromhex(receipt[2:]), provider, content)
        except (KeyError, ValueError) as error:
            raise Unavailable(f"{url}{path} names no provider and receipt") from error

    async def buy_replay(self, body: bytes) -> tuple[bytes, bytes]:
        """Buy a replay and return (its seller's account, the replay's blob); see `replayer.BuyReplay`."""
        bought = await self.buy(random.choice(self.urls), "/v1/replays", body)  # noqa: S311  # no secret
        return bought.provider, _replay_of(bought.body)


class Prober:
    """Makes probes, and remembers their receipts.

    Args:
        prompts: what probes ask; the package's own by default.
    """

    def __init__(self, shop: ProbeShop, *, probes_per_hour: float, prompts: Sequence[str] = ()) -> None:
        self.receipts: set[bytes] = set()
        self.answered = self.failed = 0
        self._shop = shop
        self._random = random.SystemRandom()
        self._mean_s = 3600 / probes_per_hour if probes_per_hour else 0.0
        self._prompts = list(prompts) or load_prompts()
        self._forms: dict[tuple[str, str], deque[dict[str, Any]]] = {}

    @property
    def is_buying(self) -> bool:
        """Whether it buys at all."""
        return self._mean_s > 0

    def pause_s(self) -> float:
        """Return how long to wait for the next probe: exponentially spread, as independent callers are."""
        return self._random.expovariate(1 / self._mean_s)

    def learn(self, api: str, model: str, body: bytes) -> None:
        """Keep the form of a user's request: its fields in their order, without its texts."""
        try:
            fields = json.loads(body)
        except ValueError:
            return
        if not isinstance(fields, dict) or api not in _PATHS:
            return
        form = {key: None if key in _TEXTS else value for key, value in fields.items()}
        if isinstance(fields.get("messages"), list):
            form["messages"] = [str(message.get("role")) for message in fields["messages"] if isinstance(message, dict)]
        form.pop("seed", None)
        self._forms.setdefault((api, model), deque(maxlen=MAX_FORMS)).append(form)

    def write(self, api: str, model: str) -> bytes:
        """Return the body of a probe for a model, in the form of one of its users' requests."""
        forms = self._forms.get((api, model))
        form = self._random.choice(forms) if forms else _PLAIN_FORM
        body: dict[str, Any] = {}
        for key, value in form.items():
            if key == "model":
                body[key] = model
            elif key == "messages":
                body[key] = self._messages(value or ["user"])
            elif key in ("prompt", "input"):
                body[key] = self._random.choice(self._prompts)
            elif key not in _TEXTS:
                body[key] = value
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()

    async def probe(self) -> Bought | None:
        """Buy one probe of a model that users buy, if there is one; None if there isn't, or it failed."""
        if not self._forms:
            return None
        api, model = self._random.choice(list(self._forms))
        try:
            bought = await self._shop.buy(self._random.choice(self._shop.urls), _PATHS[api], self.write(api, model))
        except Unavailable:
            self.failed += 1
            return None
        self.answered += 1
        self.receipts.add(bought.receipt_hash)
        return bought

    def _messages(self, roles: Sequence[str]) -> list[dict[str, str]]:
        return [{"role": role, "content": self._random.choice(self._prompts)} for role in roles]


def load_prompts() -> list[str]:
    """Return the package's prompts, one a line."""
    text = resources.files("steelyard.validator").joinpath("prompts.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line.strip()]


def _receipt_of_stream(content: bytes) -> str:
    for event in reversed(content.split(b"\n\n")):
        if b'"steelyard"' in event:
            return str(msgspec.json.decode(event.removeprefix(b"data: "))["steelyard"]["receipt_id"])
    raise ValueError("no receipt in the stream")


def _replay_of(body: bytes) -> bytes:
    try:
        return base64.b64decode(msgspec.json.decode(body)["replay"], validate=True)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise BadMessage(f"a seller's replay can't be read: {error}") from error
