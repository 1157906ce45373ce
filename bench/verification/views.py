"""What a provider could make of its orders: numbers, for a classifier that wants to know which of them are probes.

All nodes of the recording work together, and remember everything: whose field `user` came before, which conversation
goes on and what it was answered, how calls follow each other.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

TEXT_GRAMS, FORM_GRAMS = 2048, 1024
NEVER_MS = 600_000.0

Array = np.ndarray


def views_of(calls: Sequence[dict[str, Any]]) -> tuple[list[str], Array, Array]:
    """Return the names of the plain features, the plain features, and the hashed n-grams, one row a call in order."""
    memory = _Memory()
    plain = [memory.look(call) for call in calls]
    names = sorted({name for row in plain for name in row})
    table = np.array([[row.get(name, 0.0) for name in names] for row in plain])
    texts = [grams(call["body"], TEXT_GRAMS) for call in calls]
    forms = [grams(form_of(call["body"]), FORM_GRAMS) for call in calls]
    return names, table, np.concatenate([np.array(texts), np.array(forms)], axis=1)


def grams(text: str, size: int) -> Array:
    """Return the hashed counts of 1 to 5 neighbouring bytes, log-scaled, of length 1."""
    data, counts = np.frombuffer(text.encode(), np.uint8).astype(np.uint64), np.zeros(size, np.float32)
    for length in range(1, 6):
        if len(data) < length:
            break
        code = np.full(len(data) - length + 1, length, np.uint64)
        for place in range(length):
            code = (code * np.uint64(1_000_003)) ^ data[place : len(data) - length + 1 + place]
        code ^= code >> np.uint64(17)
        np.add.at(counts, (code * np.uint64(2_654_435_761) >> np.uint64(7)) % np.uint64(size), 1)
    counts = np.log1p(counts)
    return counts / max(1e-9, float(np.linalg.norm(counts)))


def form_of(body: str) -> str:
    """Return a body without its messages' texts: spaces, order, names and values of everything else."""
    for text in sorted((message["content"] for message in json.loads(body)["messages"]), key=len, reverse=True):
        for is_ascii in (True, False):
            body = body.replace(json.dumps(text, ensure_ascii=is_ascii), '""')
    return body


class _Memory:
    """What the nodes saw before."""

    def __init__(self) -> None:
        self._last: dict[Any, int] = {}
        self._times: list[int] = []
        self._said: dict[str, int] = {}
        self._forms: Counter[str] = Counter()
        self._people: Counter[str] = Counter()
        self._gateways: dict[str, int] = {}
        self._texts: Counter[str] = Counter()

    def look(self, call: dict[str, Any]) -> dict[str, float]:
        """Return the features of the next call."""
        body, now = json.loads(call["body"]), call["at_ms"]
        row: dict[str, float] = defaultdict(float)
        self._look_at_order(call, row)
        self._look_at_time(call, now, row)
        self._look_at_messages(body["messages"], call, now, row)
        form = form_of(call["body"])
        row["form_seen"] = math.log1p(self._forms[form])
        self._forms[form] += 1
        for key, value in body.items():
            row[f"has_{key}"] = 1.0
            if isinstance(value, int | float):
                row[f"value_{key}"] = math.asinh(float(value))
        person = str(body.get("user", ""))
        if person:
            row["person_seen"], row["person_length"] = math.log1p(self._people[person]), len(person)
            row["person_variety"] = len(set(person)) / len(person)
            self._people[person] += 1
        row["body_bytes"] = math.log(len(call["body"].encode()))
        row["spaces"] = call["body"].count(" ") / len(call["body"])
        row["escapes"] = call["body"].count("\\") / len(call["body"])
        row["lines"] = math.log1p(call["body"].count("\n"))
        return row

    def _look_at_order(self, call: dict[str, Any], row: dict[str, float]) -> None:
        for name in ("lane", "grade", "price_in", "price_out", "deadline_in_ms", "prefix_bytes"):
            row[name] = float(call[name])
        row["max_cost"] = math.log1p(call["max_cost"])
        row["seed"] = math.log1p(int(call["seed"]))
        row["is_stream"] = float(call["is_stream"])
        row["first_byte_of_id"] = float(int(call["call_id"][:2], 16))
        row[f"gateway_{call['gateway']}"] = row[f"node_{call['node']}"] = 1.0

    def _look_at_time(self, call: dict[str, Any], now: int, row: dict[str, float]) -> None:
        for name, key in (("any", ""), ("gateway", call["gateway"]), ("node", call["node"])):
            row[f"since_{name}"] = math.log1p(now - self._last.get((name, key), now - int(NEVER_MS)))
            self._last[name, key] = now
        self._times = [at for at in self._times if at > now - 5_000]
        row["in_5_s"], row["in_1_s"] = len(self._times), sum(at > now - 1_000 for at in self._times)
        row["in_tenth"] = float(now // 100 % 10)
        self._times.append(now)

    def _look_at_messages(
        self, messages: list[dict[str, str]], call: dict[str, Any], now: int, row: dict[str, float]
    ) -> None:
        row["messages"] = len(messages)
        lengths = [len(message["content"]) for message in messages]
        row["last_length"], row["mean_length"] = math.log1p(lengths[-1]), math.log1p(sum(lengths) / len(lengths))
        for message in messages:
            row[f"role_{message['role']}"] += 1.0
            row[f"length_{message['role']}"] += math.log1p(len(message["content"]))
        history = [message["content"] for message in messages if message["role"] != "system"]
        if len(history) > 1:
            before = "\n".join(history[:-2])
            row["goes_on"] = float(before in self._said)
            row["after"] = math.log1p(now - self._said.get(before, now - int(NEVER_MS)))
            row["same_gateway"] = float(self._gateways.get(before, -1) == call["gateway"])
            pairs = list(pairwise(messages))
            answers = [pair for pair in pairs if pair[1]["role"] == "assistant"]
            row["true_answers"] = sum(a["content"] == b["content"] for a, b in answers) / max(1, len(answers))
        row["text_seen"] = math.log1p(self._texts[history[-1]])
        self._texts[history[-1]] += 1
        self._said["\n".join(history)] = now
        self._gateways["\n".join(history)] = call["gateway"]
