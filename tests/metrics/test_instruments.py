"""Tests of counters and histograms: prometheus_client's own would be exposed in the same way."""

import re

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from service.metrics.instruments import CounterFamily, HistogramFamily

BOUNDS = (0.25, 1, 10, 2.5e6)
NAMES = st.sampled_from(["a", 'quoted "b"', "line\nbreak"])
OBSERVATIONS = st.lists(st.tuples(NAMES, st.sampled_from([*BOUNDS]) | st.floats(0, 1e9)))


def render(registry: CollectorRegistry) -> str:
    """Return the exposition of a registry, without the times at which its metrics began."""
    return re.sub(r"(_created(?:\{.*\})?) .*", r"\1", generate_latest(registry).decode())


@given(OBSERVATIONS)
def test_exposition_is_that_of_prometheus_client(observations: list[tuple[str, float]]) -> None:
    """The same observations give the same text."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counters = CounterFamily("calls", "Calls", ["route"], registry=ours)
    histograms = HistogramFamily("took", "Time", ["route"], bounds=BOUNDS, registry=ours)
    plain = HistogramFamily("size", "Size", (), bounds=BOUNDS, registry=ours).labels()
    counter = prometheus_client.Counter("calls", "Calls", ["route"], registry=theirs)
    histogram = prometheus_client.Histogram(
        "took", "Time", ["route"], buckets=BOUNDS, registry=theirs
    )
    size = prometheus_client.Histogram("size", "Size", buckets=BOUNDS, registry=theirs)
    for name, value in observations:
        counters.labels(name).inc(value)
        histograms.labels(name).observe(value)
        plain.observe(value)
        counter.labels(name).inc(value)
        histogram.labels(name).observe(value)
        size.observe(value)
    assert render(ours) == render(theirs)
