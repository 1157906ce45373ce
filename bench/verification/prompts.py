"""What is asked while recording: prompts shaped like users', and prompts meant to make the model's choices a lottery.

1. `REQUESTS` is fixed: a recording names a request by its index, and anyone who records anew asks the same.
2. Every prompt meets several settings of the sampler as the list goes round.
3. The first 480 are mostly like users'. The rest, `LOTTERY`, is what a calibration must see much of to bound anything
   (`docs/spec/checking.md`, section 4): nearly all gibberish, each prompt new, most of it hot.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from steelyard.protocol.sampler import SamplerParams
from steelyard.validator.measuring import write_gibberish

CHAT = (
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "Explain photosynthesis to a ten-year-old.",
    "What is the difference between a list and a tuple in Python?",
    "Give me five ideas for a birthday party on a small budget.",
    "Translate into French: The train leaves at seven in the morning.",
    "Write a polite e-mail asking my landlord to repair the heating.",
    "Why is the sky blue?",
    "Summarise the plot of Romeo and Juliet in four sentences.",
    "What should I cook with rice, eggs and spinach?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "List the planets of the solar system with one fact about each.",
    "How do I remove a coffee stain from a shirt?",
    "Describe a quiet harbour in the morning.",
    "What are the advantages of wind power?",
    "Write a poem about autumn leaves, eight lines, rhymed.",
    "My friend is sad after losing a job. What can I say?",
    "What is 17 times 24? Show the steps.",
    "Explain how a bill becomes a law.",
    "Give three synonyms for 'happy' and use each in a sentence.",
    "Plan a weekend in Lisbon for two people who like music.",
    "What does the command `grep -r` do?",
    "Write a product description for a wooden desk lamp.",
    "How do vaccines work?",
    "Tell me a joke about a cat and a computer.",
    "What is the capital of Australia, and why is it not Sydney?",
    "Write a SQL query that counts orders per customer.",
    "How can I sleep better?",
    "Compare coffee and tea in a small table.",
    "Who was Marie Curie?",
    "Write a dialogue between a robot and a gardener.",
    "Explain compound interest with an example.",
    "What are common mistakes when learning to swim?",
    "Write a haiku about rain.",
    "How do I reverse a string in JavaScript?",
    "What is the meaning of the proverb 'a stitch in time saves nine'?",
    "Name ten animals that live in the rainforest.",
    "Write an opening paragraph for a detective novel set in Vienna.",
    "How far is the Moon, and how do we know?",
    "Give me a workout plan for beginners, three days a week.",
    "What is the difference between weather and climate?",
    "Write a letter from a sailor to his family in 1890.",
    "Explain recursion using an everyday example.",
    "What should I see in a museum if I have only one hour?",
    "Write a regular expression that matches an e-mail address, and explain it.",
    "How does a refrigerator keep food cold?",
    "Suggest names for a bakery run by two sisters.",
    "What happened in 1969 that people still talk about?",
    "Write a short speech for a colleague who retires.",
    "How do bees find their way home?",
    "Turn this into formal English: gonna be late, sorry, traffic's nuts.",
    "What is a black hole?",
    "Give a recipe for vegetable soup.",
    "Describe the taste of a lemon to someone who has never had one.",
    "Write a bash loop that renames all .txt files to .md.",
    "What are the rules of chess in brief?",
    "How can a small town attract more visitors?",
    "Explain what an API is.",
    "Write a limerick about a mathematician.",
    "What is the best way to learn a language?",
    "Imagine a city under the sea. What do people do there in the evening?",
)
_PASSAGE = (
    "The river had been quiet all summer. Boats lay along the wooden quay, their ropes grey with salt, and the old "
    "ferryman counted the coins of the day twice before he locked his hut. On the other bank the new mill had begun to "
    "turn; its owner, who came from the capital, paid in paper and spoke of bridges. Nobody in the village wanted a "
    "bridge. They wanted the ferry to run at night, and they wanted the price of flour to fall. In October the rain "
    "came, and with it the first letter from the ministry."
)
LONG = tuple(
    f"{task}\n\n{_PASSAGE}"
    for task in (
        "Continue this text in the same tone:",
        "Summarise this in one sentence:",
        "Which three questions would a journalist ask about this passage?",
        "Rewrite this passage as a diary entry of the ferryman:",
    )
)
GIBBERISH = (
    "qzx vlorp 77 mmmn ~~ teglu brak brak iiii? xoxoq 0x9f pling",
    "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQgYWJjZGVmZw== Zm9vYmFyYmF6",
    "the the the the the the the the the the the the the the",
    "ж§ߘ 🦄🧿 ⟁⟁ ǂǂ ☌ ꙮ 你 ن ଅ ᚠ ⵣ ༄ 𝔛",
    ")(*&^ }{:? ><|, ;;; ```` ~~~ %%% @@@ ### ___ +++",
    "Say one random word after another, none of which has to do with the last, for ever.",
    "Roll a die 100 times and write down only the results.",
    "xK3 9fQ Lz0 pW7 tR2 mB8 cY5 vN1 hJ6 dS4 gA9 eU3 kI0",
)
SETTINGS = (
    SamplerParams(0.0, 1.0, 0),
    SamplerParams(0.7, 1.0, 0),
    SamplerParams(1.0, 1.0, 0),
    SamplerParams(0.2, 0.9, 0),
    SamplerParams(2.0, 1.0, 0),
    SamplerParams(1.0, 0.95, 0),
    SamplerParams(0.7, 0.9, 0),
    SamplerParams(1.0, 1.0, 40),
    SamplerParams(2.0, 0.9, 20),
)
HOT = (
    SamplerParams(2.0, 1.0, 0),
    SamplerParams(1.5, 1.0, 0),
    SamplerParams(2.0, 0.95, 0),
    SamplerParams(2.0, 0.9, 20),
    SamplerParams(1.2, 1.0, 40),
)
COOL = (
    SamplerParams(0.0, 1.0, 0),
    SamplerParams(1.0, 1.0, 0),
    SamplerParams(0.7, 1.0, 0),
    SamplerParams(1.0, 0.95, 0),
    SamplerParams(0.7, 0.9, 40),
)
LOTTERY = range(480, 960)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its index, the sort of prompt (chat, long, gibberish), the prompt, and how to sample."""

    index: int
    sort: str
    prompt: str
    sampling: SamplerParams
    seed: int


def _build() -> tuple[Asked, ...]:
    sorts = [("gibberish", GIBBERISH), ("long", LONG), *[("chat", CHAT)] * 6]
    asked, used = [], {"gibberish": 0, "long": 0, "chat": 0}
    for index in range(480):
        # Each run of 8 requests has one gibberish and one long prompt; settings go round at another pace.
        sort, prompts = sorts[index % len(sorts)]
        prompt = prompts[used[sort] % len(prompts)]
        used[sort] += 1
        sampling = SETTINGS[(index * 5 + index // len(sorts)) % len(SETTINGS)]
        asked.append(Asked(index, sort, prompt, sampling, _seed(index)))
    return tuple(asked)


def _build_lottery() -> tuple[Asked, ...]:
    """Of each run of 8: four gibberish and hot, three gibberish and cool, one like users' and hot."""
    nonsense, asked = write_gibberish(random.Random(480)), []
    for index in LOTTERY:
        turn, place = divmod(index - LOTTERY.start, 8)
        sort = "chat" if place == 7 else "gibberish"
        prompt = CHAT[turn % len(CHAT)] if sort == "chat" else next(nonsense)
        settings = COOL if place in (1, 3, 5) else HOT
        asked.append(Asked(index, sort, prompt, settings[(turn + place) % len(settings)], _seed(index)))
    return tuple(asked)


def _seed(index: int) -> int:
    return int.from_bytes(hashlib.sha256(b"recording" + index.to_bytes(4, "big")).digest()[:8], "big")


REQUESTS = _build() + _build_lottery()
