"""Tests of the benchmark of calls, with a small run."""

import pytest

from tests.bench.calls import CallCost, format_table, measure_variant


@pytest.mark.parametrize(
    ("variant", "max_calls"), [("names only", 2), ("id and names", 2), ("id only", 40)]
)
async def test_deep_backlog_is_drained_with_few_calls(variant: str, max_calls: int) -> None:
    """Every record equals the response to a call for its deployment alone."""
    cost = await measure_variant(variant, tickets=40, limit=50, window_s=1.0)
    assert (cost.records, cost.identical, cost.rate_limited) == (40, 40, 0)
    assert 1 <= cost.calls <= max_calls


def test_table_shows_the_speedup() -> None:
    """The speedup is relative to one call for each record."""
    costs = [
        CallCost("names only", 10, 10, 1, 0, 2.0),
        CallCost("id only", 10, 10, 10, 1, 20.0),
    ]
    assert format_table(costs, limit=5, window_s=2.0).splitlines()[-2:] == [
        "| names only | 10 | 10 | 1 | 0.100 | 0 | 2.0 s | 10.0 x |",
        "| id only | 10 | 10 | 10 | 1.000 | 1 | 20.0 s | 1.0 x |",
    ]
