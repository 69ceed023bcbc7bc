"""Tests of the curves of the flow chart."""

from hypothesis import given
from hypothesis import strategies as st

from service.console.charts import CURVE_HEIGHT, draw_curve

NOW_MS = 1_795_428_000_000
LEVEL = "M-1 39V36.0L0 36.0L60 36.0H61V39Z"


@given(st.integers(0, 10_000), st.lists(st.integers(500, 2000), min_size=200, max_size=200))
def test_curve_of_a_constant_value_never_changes(start_ms: int, steps_ms: list[int]) -> None:
    """Whenever the samples were taken: an idle page need not be drawn again."""
    times, at_ms = list[int](), NOW_MS + start_ms
    for step_ms in steps_ms:
        at_ms += step_ms
        times.append(at_ms)
    recent = [(at_ms, 0.0) for at_ms in times if at_ms >= times[-1] - 189_000]
    if times[-1] - times[0] >= 189_000:
        assert draw_curve(recent) == LEVEL


def test_curve_changes_once_per_step_of_the_clock() -> None:
    """Two samples of the same three seconds share a point of the curve, the larger counts."""
    assert draw_curve([(3000, 2.0), (6000, 1.0)]) == draw_curve([(3000, 2.0), (8999, 1.0)])
    assert draw_curve([(3000, 2.0), (4000, 9.0), (6000, 0.0)]) == "M59 39V0.0L59 0.0L60 36.0H61V39Z"


def test_curve_keeps_its_corners() -> None:
    """Only points between two of the same height are left out."""
    values = (5, 5, 5, 0, 0, 0, 0, 5)
    points = [(3000 * step, float(value)) for step, value in enumerate(values)]
    top, bottom = "0.0", f"{CURVE_HEIGHT}.0"
    corners = f"53 {top}L55 {top}L56 {bottom}L59 {bottom}L60 {top}"
    assert draw_curve(points) == f"M53 39V0.0L{corners}H61V39Z"


def test_curve_without_samples_is_empty() -> None:
    """A path without a point is no error in SVG."""
    assert draw_curve([]) == ""
