"""Users, as far as a gateway sees them: apps with their own client libraries, settings, habits and conversations.

Nothing here knows of probes. Texts come from a pool that is split in two disjoint halves: one for these users, one for
the validators' probes, so that only the *form* of a call can tell them apart, never what it is about.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

TASKS = """
Explain {} to a beginner.
Write a short poem about {}.
What are the main risks of {}?
List five facts on {}.
How did {} begin?
Why do people care about {}?
Give me a three-step plan to learn about {}.
Translate into French: I like {} very much.
Compare {} with what came before it.
Summarise {} in two sentences.
Write an e-mail that invites a friend to talk about {}.
What would a child ask about {}?
Name three books on {} and say in a line what each is about, for a reader who has never heard of it.
Tell me a joke about {}.
What is the most common mistake with {}?
I have 20 minutes: what should I know of {}?
Write a Python function whose name has to do with {}.
Who was important for {}?
Describe {} without adjectives.
Rewrite in formal English: {} is kinda cool, gotta say.
Is {} worth the money?
How is {} taught in schools?
""".strip().splitlines()
WHAT = """
beekeeping, tidal power, chess openings, sourdough, glaciers, jazz, bridge building, origami, vaccines, night trains,
lighthouses, bookbinding, black holes, cycling in cities, tea, maps, violin making, coral reefs, typography, compilers,
salt, mountain rescue, puppetry, opera, urban gardens, clocks, rice farming, satellites, café culture, calligraphy,
whales, concrete, proverbs, migration of birds, ferries, ceramics, crosswords, saunas, folk dance, weather maps
"""
KINDS = ("", "the history of ", "the economics of ", "the beauty of ", "modern ")
TOPICS = [kind + what.strip() for kind, what in product(KINDS, WHAT.replace("\n", " ").split(","))]
SYSTEMS = (
    "You are a helpful assistant.", "You are a friendly tutor. Answer briefly.", "Answer in plain language.",
    "You help customers of a small shop.", "You are an expert editor.", "Reply in at most three sentences.",
    "You are a careful research assistant; say when you are not sure.", "You write for a general audience.",
)  # fmt: skip


def split_pool(seed: int) -> tuple[list[str], list[str]]:
    """Return the pool's texts in two disjoint halves, each shuffled."""
    pool = [task.format(topic) for task, topic in product(TASKS, TOPICS)]
    random.Random(seed).shuffle(pool)
    return pool[::2], pool[1::2]


def compact(body: dict[str, Any]) -> bytes:
    """As OpenAI's Python client and JavaScript's JSON.stringify write it."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def spaced(body: dict[str, Any]) -> bytes:
    """As Python's `json` writes it by itself."""
    return json.dumps(body).encode()


def indented(body: dict[str, Any]) -> bytes:
    """As people paste it into a shell."""
    return json.dumps(body, indent=2, ensure_ascii=False).encode()


@dataclass(frozen=True)
class App:
    """One program that calls: how it writes JSON, in which order, with which settings and habits."""

    name: str
    write: Any
    options: dict[str, Any]
    is_model_first: bool = True
    system: str = ""
    turns: int = 1
    has_user: bool = False
    has_seed: bool = False
    is_content_first: bool = False

    def body(self, model: str, history: Sequence[dict[str, str]], user: str, source: random.Random) -> bytes:
        """Return the body of a call with this conversation so far, the new question last."""
        said = [{"role": "system", "content": self.system}, *history] if self.system else list(history)
        if self.is_content_first:
            said = [{"content": message["content"], "role": message["role"]} for message in said]
        fields: dict[str, Any] = (
            {"model": model, "messages": said} if self.is_model_first else {"messages": said, "model": model}
        )
        fields |= self.options
        if self.has_user:
            fields["user"] = user
        if self.has_seed:
            fields["seed"] = source.randrange(10_000)
        return bytes(self.write(fields))


STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
APPS = (
    App("openai-python", compact, {"temperature": 0.7}, is_model_first=False, turns=3),
    App("openai-python-plain", compact, {}, is_model_first=False),
    App("openai-node", compact, STREAMED, system=SYSTEMS[0], turns=4),
    App("requests", spaced, {"max_tokens": 256, "temperature": 0.2}, system=SYSTEMS[4]),
    App("shop", compact, {"max_tokens": 150, "temperature": 1, "user": ""}, system=SYSTEMS[3], has_user=True, turns=2),
    App("evaluation", spaced, {"temperature": 0, "max_tokens": 64}, has_seed=True),
    App("curl", indented, {"max_tokens": 100}),
    App("java", compact, {"top_p": 0.9, "stream": False, "n": 1}, is_content_first=True, system=SYSTEMS[6]),
    App("chat-page", compact, {"stream": True, "temperature": 0.8, "max_tokens": 512}, turns=5),
)  # fmt: skip
WEIGHTS = (6, 4, 5, 3, 3, 2, 1, 2, 5)


@dataclass
class Person:
    """One user of an app, with an id, a gateway, and what they have said so far in this conversation."""

    app: App
    gateway: int
    user: str
    history: list[dict[str, str]]


def new_person(source: random.Random, gateways: int) -> Person:
    """Return someone who begins a conversation; two thirds use the first gateway."""
    app = source.choices(APPS, WEIGHTS)[0]
    gateway = 0 if source.random() < 2 / 3 else source.randrange(gateways)
    return Person(app, gateway, str(uuid.UUID(int=source.getrandbits(128), version=4)), [])
