"""Calls that a validator buys itself, as an ordinary client of ordinary gateways: nobody can tell them from users'.

1. A probe takes its form from users' requests that were checked, byte for byte but for texts, names and seed (`forms`);
   its own texts come from a pool of prompts. Conversations go on as users' do: with what was answered, after a while.
2. It is bought at random moments, over the gateways that users use, with an ordinary key, at the list price; the
   gateway chooses the provider as for anyone.
3. For each long call of a newcomer that this validator has to check it buys one more of the same newcomer, soon: half
   of a newcomer's first calls are probes. The wish for a provider stays at the gateway.
4. Replays are bought the same way (`replayer.BoughtReplayer`).

Law: docs/spec/validator.md, section 4.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import aiohttp
import msgspec

from steelyard.errors import BadMessage, ConfigError, Unavailable
from steelyard.protocol.hashing import keccak
from steelyard.validator.forms import APP_CALLS, Form, made_up, read_form

TIMEOUT_S = 300.0
MAX_FORMS = 4096
MAX_SYSTEMS = 4096
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_OWED = 256
NEWCOMER_PAUSE_S = 10.0
"""Mean time between a newcomer's call and the probe that it is owed for it."""

DRAWS = 4
"""Of so many prompts the one whose length is nearest to the user's text is taken."""
_PATHS = {"chat.completions": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}


class LearnedForm(msgspec.Struct, frozen=True):
    """A form, of which API and model, over which gateway it came (its base URL, "" for unknown), and whether the answer
    was long enough to count among a newcomer's first.
    """

    api: str
    model: str
    url: str
    form: Form
    is_long: bool = False


class Owed(msgspec.Struct, frozen=True):
    """A probe that a newcomer is to get: its account, the model, and the gateway over which it was called."""

    provider: bytes
    model: str
    url: str


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

    async def buy(self, url: str, path: str, body: bytes, *, only: bytes = b"") -> Bought:
        """Send one request and return what came back; `only` names the one provider that may serve it.

        Raises:
            Unavailable: anything but a whole answer.
        """
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        headers = {"Authorization": f"Bearer {self._keys[url]}", "Content-Type": "application/json"}
        if only:
            headers["X-Steelyard-Choice"] = json.dumps({"only": ["0x" + only.hex()]})
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
        prompts: what probes ask; the package's own by default, which everybody knows: name your own.
        thinking_s: mean time between an answer and the next question of a conversation.
    """

    def __init__(
        self, shop: ProbeShop, *, probes_per_hour: float, prompts: Sequence[str] = (), thinking_s: float = 20.0
    ) -> None:
        self.receipts: set[bytes] = set()
        self.answered = self.failed = 0
        self._begun = 0
        self._shop = shop
        self._random = random.SystemRandom()
        self._mean_s = 3600 / probes_per_hour if probes_per_hour else 0.0
        self._thinking_s = thinking_s
        self._prompts = list(prompts) or load_prompts()
        self._left = list(self._prompts)
        self._forms: deque[LearnedForm] = deque(maxlen=MAX_FORMS)
        self._owed: deque[Owed] = deque(maxlen=MAX_OWED)
        self._owes = asyncio.Event()
        self._systems: Counter[bytes] = Counter()

    @property
    def is_buying(self) -> bool:
        """Whether it buys at all."""
        return self._mean_s > 0

    def owe(self, provider: bytes, model: str, url: str) -> None:
        """Remember that a newcomer is to get a probe, for a long call of its that came over a gateway."""
        self._owed.append(Owed(provider, model, url))
        self._owes.set()

    async def wait(self) -> None:
        """Return when the next conversation is to begin."""
        try:
            async with asyncio.timeout(self.pause_s()):
                await self._owes.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._random.expovariate(1 / NEWCOMER_PAUSE_S))

    def pause_s(self) -> float:
        """Return how long to wait before the next conversation: exponentially spread, as independent callers are, and
        longer the more calls a conversation has.
        """
        calls = (self.answered + self.failed) / max(1, self._begun)
        return self._random.expovariate(1 / (self._mean_s * max(1.0, calls)))

    def learn(self, api: str, model: str, body: bytes, url: str = "", *, is_long: bool = False) -> None:
        """Keep the form of a user's request that came over a gateway, without the user's texts."""
        if api in _PATHS:
            form = read_form(body, self._is_app)
            if form is not None:
                self._forms.append(LearnedForm(api, model, url, form, is_long))

    async def probe(self) -> Bought | None:
        """Buy a conversation, most often a single call, of a model that users buy; return the last call, or None if
        there is no such model, or it failed.
        """
        owed = self._next_owed()
        openings = [learned for learned in self._forms if learned.form.turns == 0]
        if owed is not None:
            openings = [learned for learned in openings if learned.model == owed.model]
            openings = [learned for learned in openings if learned.is_long] or openings
        if not openings:
            return None
        learned = self._random.choice(openings)
        came_over = learned.url if owed is None else owed.url
        url = came_over if came_over in self._shop.urls else self._random.choice(self._shop.urls)
        self._begun += 1
        patience = self._random.random()
        said: list[str] = []
        names: list[str] = []
        while True:
            form = learned.form
            said += [self._text(hole.length) for hole in form.holes[len(said) :]]
            names += [made_up(hole.shape, self._random) for hole in form.names[len(names) :]]
            body = form.write(said, names, self._random)
            try:
                only = b"" if owed is None else owed.provider
                bought = await self._shop.buy(url, _PATHS[learned.api], body, only=only)
            except Unavailable:
                self.failed += 1
                return None
            self.answered += 1
            self.receipts.add(bought.receipt_hash)
            following = self._following(learned.form, patience) if owed is None else None
            if following is None:
                return bought
            learned = msgspec.structs.replace(learned, form=following)
            said.append(text_of(bought.body))
            await asyncio.sleep(self._random.expovariate(1 / self._thinking_s))

    def _next_owed(self) -> Owed | None:
        owed = self._owed.popleft() if self._owed else None
        if not self._owed:
            self._owes.clear()
        return owed

    def _following(self, form: Form, patience: float) -> Form | None:
        """The form of a conversation's next call, or None for its end: as many go so far as users' do.

        Args:
            patience: 0 to 1, drawn once for a conversation.
        """
        same = [other.form for other in self._forms if other.form.kind == form.kind]
        following = [other for other in same if other.turns == form.turns + 1]
        begun = sum(other.turns == 0 for other in same)
        return self._random.choice(following) if len(following) > patience * begun else None

    def _text(self, length: int) -> str:
        """A prompt about as long as a user's text; several, where none is nearly so long."""
        text = min((self._draw() for _ in range(DRAWS)), key=lambda prompt: abs(len(prompt) - length))
        self._left.remove(text)
        while 2 * len(text) < length:
            text += "\n\n" + self._random.choice(self._prompts)
        return text

    def _draw(self) -> str:
        """A prompt that was not asked since all were: one that comes again too soon would be known."""
        if not self._left:
            self._left = list(self._prompts)
        return self._random.choice(self._left)

    def _is_app(self, system: str) -> bool:
        """Count a system message; True once so many calls had it that it is an app's. Rare ones are forgotten."""
        key = keccak(system.encode("utf-8", "surrogatepass"))
        self._systems[key] += 1
        if len(self._systems) > MAX_SYSTEMS:
            self._systems = Counter(dict(self._systems.most_common(MAX_SYSTEMS // 2)))
        return self._systems[key] >= APP_CALLS


def load_prompts(file: Path | None = None) -> list[str]:
    """Return the prompts in a file, one a line; without one the package's, which everybody knows.

    Raises:
        ConfigError: the file can't be read, or is empty.
    """
    if file is None:
        text = resources.files("steelyard.validator").joinpath("prompts.txt").read_text("utf-8")
    else:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} (validator.prompts) can't be read: {error}") from error
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ConfigError(f"{file} (validator.prompts) is empty: write prompts like users', one a line")
    return prompts


def text_of(body: bytes) -> str:
    """Return the text of a chat's answer, streamed or not; "" for anything else."""
    try:
        if not body.startswith(b"data: "):
            return str(json.loads(body)["choices"][0]["message"]["content"] or "")
        events = [json.loads(event[6:]) for event in body.split(b"\n\n") if event.startswith(b"data: {")]
        return "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ()))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""


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
