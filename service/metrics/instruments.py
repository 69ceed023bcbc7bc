"""Counters and histograms: plain numbers, which prometheus_client reads at a scrape.

prometheus_client's own take a lock for each number, and cost ten times as much. These are for the
thread of the event loop only.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

LabelValues = tuple[str, ...]


class Counter:
    """A number that only grows. ``created_s`` is when it began, in seconds since 1970."""

    __slots__ = ("created_s", "value")

    def __init__(self) -> None:
        self.created_s = time.time()
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add an amount."""
        self.value += amount


class Histogram:
    """How many observations lie within each bound, and their sum."""

    __slots__ = ("bounds", "counts", "created_s", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.created_s = time.time()
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one counts what is above all bounds
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the bounds as text, each with the number of observations up to it."""
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        return [*zip(bounds, accumulate(self.counts), strict=True)]


class CounterFamily(Collector):
    """The counters of one name, by the values of its labels."""

    def __init__(
        self, name: str, description: str, labels: Sequence[str], *, registry: CollectorRegistry
    ) -> None:
        self._name, self._description, self._labels = name, description, labels
        self._counters: dict[LabelValues, Counter] = {}
        registry.register(self)

    def labels(self, *values: str) -> Counter:
        """Return the counter with these values of the labels; it begins at zero."""
        return self._counters.setdefault(values, Counter())

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        family = CounterMetricFamily(self._name, self._description, labels=self._labels)
        for values, counter in self._counters.items():
            family.add_metric(values, counter.value, counter.created_s)
        yield family


class HistogramFamily(Collector):
    """The histograms of one name, by the values of its labels."""

    def __init__(
        self,
        name: str,
        description: str,
        labels: Sequence[str],
        *,
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._description, self._labels = name, description, labels
        self._bounds = bounds
        self._histograms: dict[LabelValues, Histogram] = {}
        registry.register(self)

    def labels(self, *values: str) -> Histogram:
        """Return the histogram with these values of the labels; it begins empty."""
        return self._histograms.setdefault(values, Histogram(self._bounds))

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        family = HistogramMetricFamily(self._name, self._description, labels=self._labels)
        for values, histogram in self._histograms.items():
            family.add_metric(values, histogram.buckets(), histogram.sum)
            label_values = dict(zip(self._labels, values, strict=True))
            family.add_sample(f"{self._name}_created", label_values, histogram.created_s)
        yield family
