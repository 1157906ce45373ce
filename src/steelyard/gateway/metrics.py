"""What `/metrics` shows: counted in plain integers on the hot path, put into Prometheus's shape only when scraped.

1. Names begin with ``steelyard_gateway_``; amounts are nano, times seconds.
2. Labels are few and bounded: routes, statuses, codes, services, providers. Never a key, a call or a prompt.

Law: docs/spec/gateway.md, section 7.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

Gauges = Callable[[], dict[str, float]]


class Timing:
    """A histogram of seconds."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds


class Metrics:
    """All counters of one gateway process; `gauges` is asked at each scrape for what is true now."""

    def __init__(self, gauges: Gauges = dict) -> None:
        self.replies: Counter[tuple[str, int]] = Counter()
        self.errors: Counter[str] = Counter()
        self.calls: Counter[tuple[str, str, str]] = Counter()
        self.units: Counter[tuple[str, str]] = Counter()
        self.cost_nano: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.rescues: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.relay: Counter[tuple[str, str]] = Counter()
        self.lies: Counter[tuple[str, str]] = Counter()
        self.vouchers = 0
        self.batches = 0
        self.answered = Timing()
        self.first_piece = Timing()
        self.gauges = gauges

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.registry import Collector

        metrics = self

        class _Adapter(Collector):
            def collect(self) -> Iterator[Metric]:
                yield from metrics._collect()

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Adapter())
        return generate_latest(registry)

    def _collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        def counter(name: str, text: str, labels: list[str], values: Mapping[Any, float]) -> Metric:
            family = CounterMetricFamily("steelyard_gateway_" + name, text, labels=labels)
            for key, value in values.items():
                family.add_metric(list(key), value)
            return family

        yield counter(
            "replies",
            "HTTP replies sent, by route and status.",
            ["route", "status"],
            {(route, str(status)): count for (route, status), count in self.replies.items()},
        )
        yield counter("errors", "Errors answered, by code.", ["code"], _one(self.errors))
        yield counter("calls", "Calls ended at a provider, by how.", ["service", "provider", "outcome"], self.calls)
        yield counter("units", "Units bought.", ["service", "direction"], self.units)
        yield counter("cost_nano", "Cost of receipts accepted, in nano.", ["service"], _one(self.cost_nano))
        yield counter("retries", "Calls tried again elsewhere, by why.", ["code"], _one(self.retries))
        yield counter("rescues", "Streams that went on at another provider, by why.", ["code"], _one(self.rescues))
        yield counter("peer_events", "Peers refused, by code.", ["code"], _one(self.events))
        yield counter("lies", "Lies of providers, by kind and how far their proof is.", ["kind", "step"], self.lies)
        yield counter("relay", "What a relay's providers were found to be, by question.", ["what", "found"], self.relay)
        yield counter("vouchers", "Vouchers signed.", [], {(): float(self.vouchers)})
        yield counter("batches", "Signed batches accepted.", [], {(): float(self.batches)})
        for name, text, timing in (
            ("answer_seconds", "From a whole request to the end of its answer.", self.answered),
            ("first_piece_seconds", "From a whole request to the first piece of a stream.", self.first_piece),
        ):
            total, buckets = 0, []
            for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], timing.counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            family = HistogramMetricFamily("steelyard_gateway_" + name, text)
            family.add_metric([], buckets, timing.total_s)
            yield family
        for name, value in self.gauges().items():
            gauge = GaugeMetricFamily("steelyard_gateway_" + name, name.replace("_", " ") + ", now.")
            gauge.add_metric([], value)
            yield gauge


def _one(values: Counter[str]) -> dict[tuple[str, ...], float]:
    return {(key,): float(value) for key, value in values.items()}
