"""Tests of the soak: it distinguishes growing resources from constant ones."""

import os
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.graph import draw_graph
from tests.soak.sampler import measure_processes
from tests.soak.trends import ResourceSample, measure_trend


def make_samples(count: int, rise: float) -> list[ResourceSample]:
    """Return samples of a value that rises from 50."""
    return [ResourceSample(at_s=n * 10.0, values={"RSS a": 50 + rise * n}) for n in range(count)]


@pytest.mark.parametrize(("rise", "grows"), [(0.0, False), (0.01, False), (1.0, True)])
def test_steady_rise_is_growth(rise: float, *, grows: bool) -> None:
    """A leak continues in the last quarter; noise does not count."""
    trend = measure_trend(make_samples(100, rise), "RSS a", unit="MB")
    assert trend is not None
    assert trend.grows is grows


def test_initial_rise_is_no_growth() -> None:
    """Caches fill, and retained data reaches its full size."""
    samples = [ResourceSample(at_s=n, values={"a": float(min(n, 20))}) for n in range(100)]
    trend = measure_trend(samples, "a", unit="")
    assert trend is not None
    assert not trend.grows


def test_too_few_samples_have_no_trend() -> None:
    """A value without enough samples has no trend."""
    assert measure_trend(make_samples(3, 1.0), "RSS a", unit="MB") is None
    assert measure_trend(make_samples(30, 1.0), "other", unit="MB") is None


@given(
    values=st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e9)), max_size=9),
    title=st.text(st.characters(exclude_categories=("Cs", "Cc"))),
)
def test_graph_is_valid_xml_for_any_samples(values: list[dict[str, float]], title: str) -> None:
    """A sample may lack any value."""
    samples = [
        ResourceSample(at_s=float(n), values=sample_values)
        for n, sample_values in enumerate(values)
    ]
    graph = draw_graph(samples, [(title, ["a", "b"])], title=title, strikes_s=[0.5])
    assert ET.fromstring(graph).tag.endswith("svg")  # noqa: S314 - the test wrote it


def test_running_process_is_measured_and_ended_one_is_not() -> None:
    """The test measures memory and files of its own process."""
    measured = measure_processes("self", [os.getpid()])
    assert measured["RSS self"] > 1
    assert measured["files self"] > 1
    assert measure_processes("gone", [2**22 + 1]) == {}
