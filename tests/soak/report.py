"""How is a soak told? As a table in Markdown, and what its graph shows: thinks only."""

from collections.abc import Mapping, Sequence

from tests.faults.oracle import OracleReport
from tests.soak.trends import ResourceSample, Trend, measure_trend

# By the first word of a name: its unit, and how much more of it is not called growth. The files of
# a receiver are its senders' connections too, of which it has as many as waited when it came back.
_UNITS = {"RSS": ("MB", 8.0), "files": ("", 8.0), "keys": ("", 50.0), "redis": ("MB", 2.0)}


def list_trends(samples: Sequence[ResourceSample], names: Sequence[str]) -> list[Trend]:
    """Follow everything but what goes up and down with the traffic."""
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
    """Say what is drawn together."""
    return [
        ("Resident memory, MB", [name for name in names if name.startswith("RSS")]),
        ("Open files", [name for name in names if name.startswith("files")]),
        ("Memory of Redis, MB", ["redis used"]),
        ("Keys that stay", ["keys lasting"]),
        ("Keys with an end", ["keys ending"]),
        ("Tickets that wait", ["backlog"]),
    ]


def format_table(
    trends: Sequence[Trend], oracle_report: OracleReport, killed: Mapping[str, int], *, title: str
) -> str:
    """Write how everything went, and what the oracle counted."""
    lines = [f"| {title} | 2nd quarter | last quarter | highest | |", "|---|--:|--:|--:|---|"]
    lines += [
        f"| {c.name} {c.unit} | {c.second_quarter:,.4g} | {c.last_quarter:,.4g} |"
        f" {c.highest:,.4g} | {'**grows**' if c.grows else 'flat'} |"
        for c in trends
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
