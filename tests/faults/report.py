"""How is a storm told? As a table in Markdown: thinks only."""

from collections.abc import Sequence
from statistics import median

from tests.faults.recovery import Recovery
from tests.faults.storm import Outcome


def write_report(outcome: Outcome, recovery: Recovery | None, *, title: str) -> str:
    """Write the table, and below it the first of whatever is wrong."""
    rows = [*_list_rows(outcome), *(_list_recoveries(recovery) if recovery else ())]
    lines = [f"| {title} | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows)]
    wrong = _list_wrong(outcome)
    return "\n".join([*lines, *(["", *wrong] if wrong else [])]) + "\n"


def _list_rows(outcome: Outcome) -> list[tuple[str, str]]:
    told = outcome.judgement
    posts = sum(outcome.answers.values())
    strokes = ", ".join(
        f"{role} {blow} {n:,}" for (role, blow), n in sorted(outcome.strokes.items())
    )
    failed = ", ".join(f"{reason} {n}" for reason, n in sorted(told.failed.items()))
    return [
        ("webhooks accepted", f"{told.accepted:,} of {told.deliveries:,}"),
        ("posts made for them", f"{posts:,}: {_write_answers(outcome)}"),
        ("took", f"{outcome.seconds:,.0f} s, {told.accepted / outcome.seconds:.0f} accepted/s"),
        ("processes killed (SIGKILL)", f"{outcome.kills:,}"),
        ("strokes", strokes),
        ("deployments asked for", f"{told.jobs:,}"),
        ("records published", f"{told.records:,} of {told.published_jobs:,} deployments"),
        ("of these incomplete", f"{told.incomplete:,}"),
        ("**lost**", f"**{len(told.lost) + len(told.stale)}**"),
        ("**duplicated**", f"**{len(told.duplicated) + len(told.twice_queued)}**"),
        ("**stuck**", f"**{len(told.stuck)}**"),
        ("invented, or waiting and failed", f"{len(told.invented) + len(told.both)}"),
        ("failed, by reason", failed or "0"),
        ("keys without TTL that should have one", f"{len(told.lasting)}"),
        (
            "429 answers, of these inside a closed window",
            f"{outcome.rate_limited}, {outcome.rate_limited_while_closed}",
        ),
        ("log lines that no fault excuses", f"{len(outcome.mistakes)}"),
        ("nothing waited any more after the last send", f"{outcome.drained_s:.1f} s"),
        ("Redis back -> next record, in the storm", _write_times(outcome.recoveries)),
    ]


def _list_recoveries(recovery: Recovery) -> list[tuple[str, str]]:
    return [
        ("worker killed -> all that it held published, idle", _write_times(recovery.worker_s)),
        ("Redis back -> first record, idle", _write_times(recovery.redis_s)),
    ]


def _write_answers(outcome: Outcome) -> str:
    return ", ".join(
        f"{n:,} x {status or 'no answer'}" for status, n in sorted(outcome.answers.items())
    )


def _write_times(times: Sequence[float]) -> str:
    if not times:
        return "none"
    return f"median {median(times):.2f} s, worst {max(times):.2f} s, of {len(times)}"


def _list_wrong(outcome: Outcome) -> list[str]:
    told = outcome.judgement
    named = {
        "lost": told.lost,
        "stale": told.stale,
        "duplicated": told.duplicated,
        "queued twice": told.twice_queued,
        "stuck": told.stuck,
        "invented": told.invented,
        "waiting and failed": told.both,
        "lasting": told.lasting,
        "mistake": outcome.mistakes,
    }
    return [f"- {name}: {each}" for name, several in named.items() for each in several[:10]]
