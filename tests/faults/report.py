"""The report of a storm as a Markdown table. Pure."""

from collections.abc import Sequence
from statistics import median

from tests.faults.recovery import Recovery
from tests.faults.storm import StormResult


def format_report(outcome: StormResult, recovery: Recovery | None, *, title: str) -> str:
    """Return the table, followed by the first problems of each kind."""
    rows = [*_list_rows(outcome), *(_list_recovery_rows(recovery) if recovery else ())]
    lines = [f"| {title} | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows)]
    problems = _list_problems(outcome)
    return "\n".join([*lines, *(["", *problems] if problems else [])]) + "\n"


def _list_rows(outcome: StormResult) -> list[tuple[str, str]]:
    report = outcome.report
    posts = sum(outcome.statuses.values())
    strikes = ", ".join(
        f"{role} {action} {n:,}" for (role, action), n in sorted(outcome.strikes.items())
    )
    failed = ", ".join(f"{reason} {n}" for reason, n in sorted(report.failed.items()))
    return [
        ("webhooks accepted", f"{report.accepted:,} of {report.deliveries:,}"),
        ("posts for these", f"{posts:,}: {_format_statuses(outcome)}"),
        (
            "duration",
            f"{outcome.seconds:,.0f} s, {report.accepted / outcome.seconds:.0f} accepted/s",
        ),
        ("processes killed (SIGKILL)", f"{outcome.kills:,}"),
        ("strikes", strikes),
        ("deployments requested", f"{report.jobs:,}"),
        ("records published", f"{report.records:,} of {report.published_jobs:,} deployments"),
        ("of these incomplete", f"{report.incomplete:,}"),
        ("of these with flag events", f"{report.with_flag_events:,}"),
        ("**lost**", f"**{len(report.lost) + len(report.stale)}**"),
        ("**duplicated**", f"**{len(report.duplicated) + len(report.queued_twice)}**"),
        ("**stuck**", f"**{len(report.stuck)}**"),
        ("deployments that only the service reports", f"{outcome.reported:,}"),
        (
            "**reported twice, reported wrongly**",
            f"**{outcome.reported_twice}, {len(outcome.wrong_reports)}**",
        ),
        (
            "unrequested, or waiting and failed",
            f"{len(report.unrequested) + len(report.pending_and_failed)}",
        ),
        ("failed, by reason", failed or "0"),
        ("keys without TTL that should have one", f"{len(report.keys_without_ttl)}"),
        (
            "429 responses, of these to calls in a closed window",
            f"{outcome.rate_limited}, {outcome.rate_limited_while_closed}",
        ),
        (
            "403 responses for forbidden projects, cut pages",
            f"{outcome.forbidden_responses:,}, {outcome.cut_pages:,}",
        ),
        ("clock of Redis set ahead and back", _format_jumps(outcome.clock_jumps_s)),
        ("reports of lost log lines", f"{outcome.log_events['log_lines_lost']}"),
        ("log lines and exits that no fault excuses", f"{len(outcome.violations)}"),
        ("backlog empty after the last send", f"{outcome.drained_s:.1f} s"),
        ("Redis back -> next record, in the storm", _format_times(outcome.recoveries)),
    ]


def _list_recovery_rows(recovery: Recovery) -> list[tuple[str, str]]:
    return [
        ("worker killed -> all its tickets published, idle", _format_times(recovery.worker_s)),
        ("Redis back -> first record, idle", _format_times(recovery.redis_s)),
    ]


def _format_statuses(outcome: StormResult) -> str:
    return ", ".join(
        f"{n:,} x {status or 'no response'}" for status, n in sorted(outcome.statuses.items())
    )


def _format_jumps(jumps_s: Sequence[float]) -> str:
    if not jumps_s:
        return "never"
    return f"{len(jumps_s)} times, by {min(jumps_s):+.1f} to {max(jumps_s):+.1f} s"


def _format_times(times: Sequence[float]) -> str:
    if not times:
        return "none"
    return f"median {median(times):.2f} s, max {max(times):.2f} s, of {len(times)}"


def _list_problems(outcome: StormResult) -> list[str]:
    report = outcome.report
    problems = {
        "lost": report.lost,
        "stale": report.stale,
        "duplicated": report.duplicated,
        "queued twice": report.queued_twice,
        "stuck": report.stuck,
        "unrequested": report.unrequested,
        "waiting and failed": report.pending_and_failed,
        "key without TTL": report.keys_without_ttl,
        "violation": outcome.violations,
        "reported wrongly": outcome.wrong_reports,
    }
    return [f"- {name}: {item}" for name, items in problems.items() for item in items[:10]]
