"""How is a soak told? As a table in Markdown, and what its graph shows: thinks only."""

from collections.abc import Mapping, Sequence

from tests.faults.oracle import Judgement
from tests.soak.samples import Course, Sample, follow

# By the first word of a name: its unit, and how much more of it is not called growth. The files of
# a door are its senders' connections too, of which it has as many as waited when it came back.
_UNITS = {"RSS": ("MB", 8.0), "files": ("", 8.0), "keys": ("", 50.0), "redis": ("MB", 2.0)}


def list_courses(samples: Sequence[Sample], names: Sequence[str]) -> list[Course]:
    """Follow everything but what goes up and down with the traffic."""
    courses = []
    for name in names:
        known = _UNITS.get(name.partition(" ")[0])
        course = None if known is None else follow(samples, name, unit=known[0], slack=known[1])
        if course is not None:
            courses.append(course)
    return courses


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


def write_table(
    courses: Sequence[Course], told: Judgement, killed: Mapping[str, int], *, title: str
) -> str:
    """Write how everything went, and what the oracle counted."""
    lines = [f"| {title} | 2nd quarter | last quarter | highest | |", "|---|--:|--:|--:|---|"]
    lines += [
        f"| {c.name} {c.unit} | {c.middle:,.4g} | {c.end:,.4g} | {c.highest:,.4g} |"
        f" {'**grows**' if c.grows else 'flat'} |"
        for c in courses
    ]
    strokes = ", ".join(f"{name} {n}" for name, n in sorted(killed.items()))
    twice = len(told.duplicated) + len(told.twice_queued)
    lines += [
        "",
        f"{told.accepted:,} webhooks accepted, {told.records:,} records; killed: {strokes}.",
        (
            f"Lost {len(told.lost)}, duplicated {twice}, stuck {len(told.stuck)}, failed"
            f" {dict(told.failed)}, keys without TTL {list(told.lasting)}."
        ),
    ]
    return "\n".join(lines) + "\n"
