"""Does the soak tell what grows from what does not?"""

import os
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.graph import draw_graph
from tests.soak.sampler import measure_processes
from tests.soak.trends import ResourceSample, measure_trend


def make_samples(count: int, rise: float) -> list[ResourceSample]:
    """Look so many times at something that rises from 50."""
    return [ResourceSample(at_s=n * 10.0, values={"RSS a": 50 + rise * n}) for n in range(count)]


@pytest.mark.parametrize(("rise", "grows"), [(0.0, False), (0.01, False), (1.0, True)])
def test_what_rises_all_the_time_is_told(rise: float, *, grows: bool) -> None:
    """A leak goes on in the last quarter; noise does not matter."""
    course = measure_trend(make_samples(100, rise), "RSS a", unit="MB")
    assert course is not None
    assert course.grows is grows


def test_what_rises_only_at_first_does_not_grow() -> None:
    """Caches fill, and what is kept for a time comes to its size."""
    samples = [ResourceSample(at_s=n, values={"a": float(min(n, 20))}) for n in range(100)]
    course = measure_trend(samples, "a", unit="")
    assert course is not None
    assert not course.grows


def test_too_few_looks_say_nothing() -> None:
    """Nothing is made up."""
    assert measure_trend(make_samples(3, 1.0), "RSS a", unit="MB") is None
    assert measure_trend(make_samples(30, 1.0), "other", unit="MB") is None


@given(
    values=st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e9)), max_size=9),
    title=st.text(st.characters(exclude_categories=("Cs", "Cc"))),
)
def test_a_graph_is_xml_whatever_was_seen(values: list[dict[str, float]], title: str) -> None:
    """It is drawn also where a look saw nothing."""
    samples = [
        ResourceSample(at_s=float(n), values=sample_values)
        for n, sample_values in enumerate(values)
    ]
    graph = draw_graph(samples, [(title, ["a", "b"])], title=title, strikes_s=[0.5])
    assert ET.fromstring(graph).tag.endswith("svg")  # noqa: S314 - written by us


def test_a_process_is_measured_and_one_that_ended_is_not() -> None:
    """Memory and open files of this very process; of none, nothing."""
    measured = measure_processes("me", [os.getpid()])
    assert measured["RSS me"] > 1
    assert measured["files me"] > 1
    assert measure_processes("gone", [2**22 + 1]) == {}
