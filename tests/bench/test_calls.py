"""Do few calls make many records, the same as many calls make? The benchmark's own small run."""

import pytest

from tests.bench.calls import CallCost, format_table, measure_variant


@pytest.mark.parametrize(
    ("way", "most"), [("no id, but its names", 2), ("id and names", 2), ("id alone", 40)]
)
async def test_a_backlog_deeper_than_the_budget_is_worked_off(way: str, most: int) -> None:
    """Every ticket ends in the record that asking for it alone would have given."""
    cost = await measure_variant(way, tickets=40, limit=50, window_s=1.0)
    assert (cost.records, cost.identical, cost.rate_limited) == (40, 40, 0)
    assert 1 <= cost.calls <= most


def test_the_table_says_how_much_sooner() -> None:
    """Beside one call for each record."""
    costs = [
        CallCost("no id, but its names", 10, 10, 1, 0, 2.0),
        CallCost("id alone", 10, 10, 10, 1, 20.0),
    ]
    assert format_table(costs, limit=5, window_s=2.0).splitlines()[-2:] == [
        "| no id, but its names | 10 | 10 | 1 | 0.100 | 0 | 2.0 s | 10.0 x |",
        "| id alone | 10 | 10 | 10 | 1.000 | 1 | 20.0 s | 1.0 x |",
    ]
