"""Can a provider tell probes from users' calls? Two classifiers, cross-validated on recorded traffic.

Logistic regression over everything (`views`), and boosted stumps over the plain features. Folds keep conversations
whole: who has no labels can't learn one call of a conversation from the next.
The area under the curve is that of all held-out scores; its interval is a bootstrap over conversations.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from views import Array, views_of

TRAFFIC = Path(__file__).parent / "traffic.json.gz"
FORMAT = "steelyard-traffic-1"
FOLDS = 5
STEPS, RATE, DECAY = 250, 0.05, 1e-3
ROUNDS, SHRINK, EDGES = 150, 0.1, 24
BOOTSTRAPS = 1_000


def tell_apart(path: Path = TRAFFIC) -> dict[str, Any] | None:
    """Return how well each classifier does, or None where no traffic was recorded."""
    if not path.exists():
        return None
    recording = json.loads(gzip.decompress(path.read_bytes()))
    if recording["format"] != FORMAT:
        raise ValueError(f"{path} is a {recording['format']}, expected {FORMAT}: record it anew with traffic.py")
    calls = recording["calls"]
    truth = np.array([call["is_probe"] for call in calls], float)
    names, plain, hashed = views_of(calls)
    spread = plain.std(axis=0)
    plain = ((plain - plain.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
    openings = [
        next(m["content"] for m in json.loads(call["body"])["messages"] if m["role"] == "user") for call in calls
    ]
    _, talks = np.unique(openings, return_inverse=True)
    folds = (np.random.default_rng(7).permutation(talks.max() + 1) % FOLDS)[talks]
    scores = {"logistic regression": np.zeros(len(calls)), "boosted stumps": np.zeros(len(calls))}
    everything = np.concatenate([plain / np.sqrt(plain.shape[1]), hashed], axis=1)
    for fold in range(FOLDS):
        train, held = folds != fold, folds == fold
        scores["logistic regression"][held] = logistic(everything[train], truth[train], everything[held])
        scores["boosted stumps"][held] = stumps(plain[train], truth[train], plain[held])
    alone = {name: auc(truth, plain[:, place]) for place, name in enumerate(names)}
    return {
        "calls": len(calls),
        "probes": int(truth.sum()),
        "features": everything.shape[1],
        "conversations": int(talks.max() + 1),
        "classifiers": {name: with_interval(truth, found, talks) for name, found in scores.items()},
        "strongest_alone": {
            name: round(alone[name], 3) for name in sorted(alone, key=lambda name: -abs(alone[name] - 0.5))[:5]
        },
    }


def logistic(train: Array, truth: Array, held: Array) -> Array:
    """Return the held-out scores of a logistic regression with weight decay, by Adam over all rows."""
    weights, first, second = (np.zeros(train.shape[1] + 1, np.float32) for _ in range(3))
    rows = np.concatenate([train, np.ones((len(train), 1), np.float32)], axis=1)
    for step in range(1, STEPS + 1):
        chance = 1 / (1 + np.exp(-(rows @ weights)))
        slope = rows.T @ (chance - truth).astype(np.float32) / len(rows) + DECAY * weights
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        weights -= RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return np.asarray(held @ weights[:-1])


def stumps(train: Array, truth: Array, held: Array) -> Array:
    """Return the held-out scores of gradient-boosted stumps, each on one feature at one of its quantiles."""
    edges = np.quantile(train, np.linspace(0.02, 0.98, EDGES), axis=0)
    sides = train[None] > edges[:, None]
    score, found = np.zeros(len(train)), np.zeros(len(held))
    counts = np.maximum(1, sides.sum(axis=1))
    for _ in range(ROUNDS):
        rest = truth - 1 / (1 + np.exp(-score))
        right = np.einsum("eif,i->ef", sides, rest, optimize=True)
        left = rest.sum() - right
        others = np.maximum(1, len(train) - counts)
        gain = right**2 / counts + left**2 / others
        edge, feature = np.unravel_index(int(gain.argmax()), gain.shape)
        high, low = 4 * right[edge, feature] / counts[edge, feature], 4 * left[edge, feature] / others[edge, feature]
        score += SHRINK * np.where(sides[edge, :, feature], high, low)
        found += SHRINK * np.where(held[:, feature] > edges[edge, feature], high, low)
    return found


def auc(truth: Array, scores: Array) -> float:
    """Return the area under the curve: the chance that a probe's score is above a user's call's, ties by half."""
    order = np.argsort(scores, kind="stable")
    ranked, ranks = scores[order], np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    _, group, counts = np.unique(ranked, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=ranks[order]) / counts
    ranks[order] = means[group]
    probes = truth > 0
    many, few = int(probes.sum()), int((~probes).sum())
    return float((ranks[probes].sum() - many * (many + 1) / 2) / (many * few))


def with_interval(truth: Array, scores: Array, talks: Array) -> dict[str, Any]:
    """Return the area and its 95 % interval, by a bootstrap over conversations."""
    rng, found = np.random.default_rng(8), []
    members = np.split(np.argsort(talks, kind="stable"), np.cumsum(np.bincount(talks))[:-1])
    for _ in range(BOOTSTRAPS):
        drawn = np.concatenate([members[talk] for talk in rng.integers(len(members), size=len(members))])
        found.append(auc(truth[drawn], scores[drawn]))
    low, high = np.quantile(found, [0.025, 0.975])
    return {"auc": round(auc(truth, scores), 4), "interval": [round(float(low), 4), round(float(high), 4)]}
