"""The report of a soak: a Markdown table and the panels of its graph. Pure."""

from collections.abc import Mapping, Sequence

from tests.faults.oracle import OracleReport
from tests.soak.trends import ResourceSample, Trend, measure_trend

# Unit and tolerated growth by the first word of a name. The open files of a receiver include the
# connections of its senders, whose number changes with every restart.
_UNITS = {"RSS": ("MB", 8.0), "files": ("", 8.0), "keys": ("", 50.0), "redis": ("MB", 2.0)}


def list_trends(samples: Sequence[ResourceSample], names: Sequence[str]) -> list[Trend]:
    """Return the trends of all values except those that follow the traffic."""
    trends = []
    for name in names:
        unit_and_slack = _UNITS.get(name.partition(" ")[0])
        trend = (
            None
            if unit_and_slack is None
            else measure_trend(samples, name, unit=unit_and_slack[0], slack=unit_and_slack[1])
        )
        if trend is not None:
            trends.append(trend)
    return trends


def list_panels(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the title and the lines of each panel."""
    return [
        ("Resident memory, MB", [name for name in names if name.startswith("RSS")]),
        ("Open files", [name for name in names if name.startswith("files")]),
        ("Memory of Redis, MB", ["redis used"]),
        ("Keys without TTL", ["keys without TTL"]),
        ("Keys with TTL", ["keys with TTL"]),
        ("Tickets in the backlog", ["backlog"]),
    ]


def format_table(
    trends: Sequence[Trend], oracle_report: OracleReport, killed: Mapping[str, int], *, title: str
) -> str:
    """Return the trends and the findings of the oracle."""
    lines = [f"| {title} | 2nd quarter | last quarter | highest | |", "|---|--:|--:|--:|---|"]
    lines += [
        f"| {t.name} {t.unit} | {t.second_quarter:,.4g} | {t.last_quarter:,.4g} |"
        f" {t.highest:,.4g} | {'**grows**' if t.grows else 'flat'} |"
        for t in trends
    ]
    kills = ", ".join(f"{name} {n}" for name, n in sorted(killed.items()))
    duplicates = len(oracle_report.duplicated) + len(oracle_report.queued_twice)
    lines += [
        "",
        (
            f"{oracle_report.accepted:,} webhooks accepted, {oracle_report.records:,} records;"
            f" killed: {kills}."
        ),
        (
            f"Lost {len(oracle_report.lost)}, duplicated {duplicates},"
            f" stuck {len(oracle_report.stuck)}, failed {dict(oracle_report.failed)},"
            f" keys without TTL {list(oracle_report.keys_without_ttl)}."
        ),
    ]
    return "\n".join(lines) + "\n"
