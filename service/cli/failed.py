"""What does `failed` do? Lists what was given up, shows one, takes it up again, drops it."""

import argparse
import asyncio
import json
import os
import pwd
import shlex
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import assert_never

import msgspec
from msgspec import Struct

from service.accept.sources import Source, SourceError
from service.app import build_token_factory
from service.backlog.failed_tickets import MAX_BATCH, FailedTickets, RetryResult
from service.backlog.failures import FailedTicket, Requeue, parse_parked_job, plan_retry
from service.backlog.ticket import Ticket
from service.cli.preconditions import inspect_sources
from service.cli.run import resolve_redis_url
from service.cli.terminal import COLUMN_GAP, Column, pad_text, truncate_text
from service.log import Log, escape_unprintable
from service.settings import Settings, SettingsError
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

_FAILED_COLUMNS = (
    Column("failed", 7, align_right=True),
    Column("reason", 16),
    Column("tries", 5, align_right=True),
    Column("source", 12),
    Column("application", 15),
)
_JOB_TITLE = "job"
_LABEL_WIDTH = 13
_MAX_SHOWN_CHARACTERS = 4000  # characters of an answer or a body
_AGE_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))

_RETRY_RESULT_TEXTS = {
    "queued": "is due now",
    "superseded": "a newer ticket of the same job waits already: dropped",
    "skipped": "skipped",
    "gone": "is not among the failed, or has failed anew meanwhile",
    "dropped": "dropped",
}


def render_failed_header() -> str:
    """Give the titles."""
    return COLUMN_GAP.join(
        [*(pad_text(column.title, column) for column in _FAILED_COLUMNS), _JOB_TITLE]
    )


def render_failed_row(failed: FailedTicket, *, now_ms: float) -> str:
    """Tell one of the failed in one line; its job stands last and whole, to be copied."""
    ticket = failed.failure.ticket if failed.failure else None
    cells = (
        format_age((now_ms - failed.at_ms) / 1000),
        failed.reason,
        str(ticket.attempts + 1) if ticket else "-",
        failed.source or "?",
        failed.application or "?",
    )
    row = [
        pad_text(escape_unprintable(cell), column)
        for cell, column in zip(cells, _FAILED_COLUMNS, strict=True)
    ]
    return COLUMN_GAP.join([*row, escape_unprintable(failed.job)])


def render_failed_json(failed: FailedTicket, *, include_raw: bool = False) -> str:
    """Give one of the failed as a line of JSON; ``whole``: with the answer or the body."""
    failure = failed.failure
    document: dict[str, object] = {
        "job": failed.job,
        "failedAt": _format_time(failed.at_ms),
        "reason": failed.reason,
        "detail": failure.detail if failure else "",
        "source": failed.source or None,
        "application": failed.application or None,
        "attempts": failure.ticket.attempts + 1 if failure and failure.ticket else None,
    }
    if failure and include_raw:
        document["ticket"] = _ticket_fields(failure.ticket) if failure.ticket else None
        document["raw"] = failure.raw.decode("utf-8", "replace")
        document["rawCut"] = failure.raw_cut
    return msgspec.json.encode(document).decode()


def render_failed_details(failed: FailedTicket, *, now_ms: float) -> str:
    """Tell all that is known of one, and how it is tried again."""
    return "".join(f"{escape_unprintable(line)}\n" for line in _format_details(failed, now_ms))


def render_retry_result(result: RetryResult, *, is_dry_run: bool = False) -> str:
    """Say what became of one, or what would."""
    text = _RETRY_RESULT_TEXTS[result.status]
    if is_dry_run:
        text = {"queued": "would be due now", "dropped": "would be dropped"}.get(
            result.status, text
        )
    if result.detail:
        text += f" as {result.detail}" if result.status == "queued" else f": {result.detail}"
    return escape_unprintable(f"{result.job}: {text}")


def format_age(seconds: float) -> str:
    """Give an age in its largest unit."""
    for unit, unit_s in _AGE_UNITS:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _format_details(failed: FailedTicket, now_ms: float) -> Iterator[str]:
    failure = failed.failure
    yield _format_labelled_line("job", failed.job)
    age = format_age((now_ms - failed.at_ms) / 1000)
    yield _format_labelled_line("failed", f"{_format_time(failed.at_ms)}, {age} ago")
    yield _format_labelled_line("reason", failed.reason)
    parked_job = parse_parked_job(failed.job)
    if failure is not None:
        if failure.detail:
            yield _format_labelled_line("detail", failure.detail)
        if failure.ticket is not None:
            yield from _format_ticket(failure.ticket)
        elif parked_job is not None:
            yield _format_labelled_line("source", parked_job[0])
            yield _format_labelled_line("delivery", parked_job[1])
        yield from _format_raw(
            failure.raw, is_truncated=failure.raw_cut, label="body" if parked_job else "answer"
        )
    yield ""
    if parked_job is not None:
        yield f"Once the source {parked_job[0]!r} is mended, it is read again by"
    else:
        yield "It is tried again, as if it had just come, by"
    yield f"  deployment-enricher failed retry {shlex.quote(failed.job)}"


def _format_ticket(ticket: Ticket) -> Iterator[str]:
    yield _format_labelled_line("attempts", str(ticket.attempts + 1))
    for name, value in _ticket_fields(ticket).items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield _format_labelled_line(name, text)


def _ticket_fields(ticket: Ticket) -> dict[str, object]:
    """Give what the webhook said."""
    event_time = ticket.event_time
    return {
        "source": ticket.source,
        "delivery": ticket.delivery,
        "outcome": ticket.outcome,
        "project": ticket.project,
        "environment": ticket.environment,
        "application": ticket.application,
        "version": ticket.version,
        "deployment": ticket.deployment_id,
        "eventTime": None if event_time is None else _format_time(event_time),
        "metadata": None if ticket.metadata is None else ticket.metadata.decode("utf-8", "replace"),
    }


def _format_raw(raw: bytes, *, is_truncated: bool, label: str) -> Iterator[str]:
    if not raw:
        return
    truncation_note = ", of which no more was kept" if is_truncated else ""
    yield _format_labelled_line(label, f"{len(raw)} bytes{truncation_note}")
    text = raw.decode("utf-8", "replace")
    for line in text[:_MAX_SHOWN_CHARACTERS].splitlines():
        yield f"  {line}"
    if len(text) > _MAX_SHOWN_CHARACTERS:
        yield f"  .. cut here: `failed show --json` gives all {len(text)} characters"


def _format_time(time_ms: float) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):  # a sender may say anything
        return f"{time_ms:.0f} ms"


def _format_labelled_line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}}{truncate_text(text, _MAX_SHOWN_CHARACTERS)}"


class FailedFilter(Struct, frozen=True, kw_only=True):
    """What a person asked for; None is anything. Ages are seconds."""

    reason: str | None = None
    source: str | None = None
    application: str | None = None
    older_than: float | None = None
    newer_than: float | None = None

    def time_range_ms(self, now_ms: float) -> tuple[float, float]:
        """Give from and until when it was given up, in ms."""
        oldest_ms = float("-inf") if self.newer_than is None else now_ms - self.newer_than * 1000
        newest_ms = float("inf") if self.older_than is None else now_ms - self.older_than * 1000
        return oldest_ms, newest_ms

    def matches(self, failed: FailedTicket, now_ms: float) -> bool:
        """Tell whether one of the failed is meant."""
        oldest_ms, newest_ms = self.time_range_ms(now_ms)
        return (
            self.reason in {None, failed.reason}
            and self.source in {None, failed.source}
            and self.application in {None, failed.application}
            and oldest_ms <= failed.at_ms <= newest_ms
        )


_EXIT_FAILURE = 1
_DONE_STATUSES = {"queued", "superseded", "dropped"}


class FailedCommand(Struct, frozen=True):
    """What lies before the person: the failed, what was asked, and the time by Redis (ms)."""

    failed_tickets: FailedTickets
    group_commit: GroupCommit
    arguments: argparse.Namespace
    settings: Settings
    log: Log
    now_ms: int


async def run_failed(arguments: argparse.Namespace, settings: Settings, log: Log) -> int:
    """Do what was typed after `failed`; raises redis's errors when Redis is away."""
    async with _open_failed_command(arguments, settings, log) as command:
        match arguments.what:
            case "list":
                return await _list_failed(command)
            case "show":
                return await _show_failed(command)
            case "retry" | "drop":
                return await _retry_or_drop(command)
            case never:
                assert_never(never)


@asynccontextmanager
async def _open_failed_command(
    arguments: argparse.Namespace, settings: Settings, log: Log
) -> AsyncIterator[FailedCommand]:
    keys = Keys(settings.namespace)
    async with open_client(resolve_redis_url(settings), namespace=settings.namespace) as client:
        group_commit = GroupCommit(client, durability=settings.durability, clock=monotonic, log=log)
        failed_tickets = FailedTickets(
            client, group_commit, keys=keys, new_token=build_token_factory()
        )
        try:
            yield FailedCommand(
                failed_tickets,
                group_commit,
                arguments,
                settings,
                log,
                await failed_tickets.read_time_ms(),
            )
        finally:
            await group_commit.aclose()


async def _list_failed(command: FailedCommand) -> int:
    as_json, limit = command.arguments.json, command.arguments.limit
    shown_count = 0
    async for failed in _iterate_matching(command):
        if limit is not None and shown_count == limit:
            sys.stderr.write(f"there are more than these {limit}\n")
            break
        if not shown_count and not as_json:
            sys.stdout.write(f"{render_failed_header()}\n")
        line = (
            render_failed_json(failed)
            if as_json
            else render_failed_row(failed, now_ms=command.now_ms)
        )
        sys.stdout.write(f"{line}\n")
        shown_count += 1
    if not shown_count:
        sys.stderr.write("nothing that has failed\n")
    return 0


async def _show_failed(command: FailedCommand) -> int:
    tickets = await command.failed_tickets.read([command.arguments.job])
    if not tickets:
        return _report_unknown_jobs([command.arguments.job])
    as_json = command.arguments.json
    page = (
        f"{render_failed_json(tickets[0], include_raw=True)}\n"
        if as_json
        else render_failed_details(tickets[0], now_ms=command.now_ms)
    )
    sys.stdout.write(page)
    return 0


async def _retry_or_drop(command: FailedCommand) -> int:
    """Retry or drop what is meant, and write down who did it."""
    arguments = command.arguments
    if bool(arguments.jobs) is arguments.all:
        raise SettingsError("name the jobs, or say --all (the filters say which)")
    selected, unknown_jobs = await _select_tickets(command)
    if not selected:
        sys.stderr.write("nothing that has failed is meant\n")
    elif not arguments.dry_run:
        await command.group_commit.connect()
        if (
            arguments.all
            and not arguments.yes
            and not await _is_confirmed(arguments.what, len(selected))
        ):
            sys.stderr.write("nothing was done\n")
            return _EXIT_FAILURE
    sources = (
        _read_sources_for_retry(command.settings, selected) if arguments.what == "retry" else {}
    )
    results: list[RetryResult] = []
    try:
        jobs = list(selected)
        for start in range(0, len(jobs), MAX_BATCH):
            batch = await command.failed_tickets.read(jobs[start : start + MAX_BATCH])
            results += await _process_batch(
                command,
                [ticket for ticket in batch if ticket.digest == selected[ticket.job]],
                sources,
            )
    finally:
        _log_results(command, results)
    return (
        _EXIT_FAILURE
        if _report_unknown_jobs(unknown_jobs) or _report_counts(results, selected)
        else 0
    )


async def _process_batch(
    command: FailedCommand, batch: Sequence[FailedTicket], sources: Mapping[str, Source]
) -> list[RetryResult]:
    """Do one batch, or only say what would be done."""
    is_dry_run, is_retry = command.arguments.dry_run, command.arguments.what == "retry"
    if is_dry_run:
        results = [
            _preview_retry(ticket, sources) if is_retry else RetryResult(ticket.job, "dropped")
            for ticket in batch
        ]
    elif is_retry:
        results = await command.failed_tickets.retry(batch, sources)
    else:
        results = await command.failed_tickets.drop(batch)
    for result in results:
        sys.stdout.write(f"{render_retry_result(result, is_dry_run=is_dry_run)}\n")
    return results


def _preview_retry(failed: FailedTicket, sources: Mapping[str, Source]) -> RetryResult:
    plan = plan_retry(failed, sources)
    if isinstance(plan, Requeue):
        return RetryResult(failed.job, "queued", plan.job if plan.job != failed.job else "")
    return RetryResult(failed.job, "skipped", plan.reason)


async def _iterate_matching(command: FailedCommand) -> AsyncIterator[FailedTicket]:
    failed_filter = _build_filter(command.arguments)
    async for failed in command.failed_tickets.list_newest(
        failed_filter.time_range_ms(command.now_ms)
    ):
        if failed_filter.matches(failed, command.now_ms):
            yield failed


async def _select_tickets(command: FailedCommand) -> tuple[dict[str, str], list[str]]:
    """Give what is meant, each with the digest of what was seen, and named jobs that are none."""
    arguments = command.arguments
    selected: dict[str, str] = {}
    if arguments.all:
        async for failed in _iterate_matching(command):
            if arguments.limit is not None and len(selected) == arguments.limit:
                break
            selected[failed.job] = failed.digest
        return selected, []
    tickets = await command.failed_tickets.read(arguments.jobs)
    failed_filter = _build_filter(arguments)
    matching = [ticket for ticket in tickets if failed_filter.matches(ticket, command.now_ms)][
        : arguments.limit
    ]
    known_jobs = {ticket.job for ticket in tickets}
    unknown_jobs = [job for job in dict.fromkeys(arguments.jobs) if job not in known_jobs]
    return {ticket.job: ticket.digest for ticket in matching}, unknown_jobs


def _build_filter(arguments: argparse.Namespace) -> FailedFilter:
    return FailedFilter(
        **{name: getattr(arguments, name) for name in FailedFilter.__struct_fields__}
    )


def _read_sources_for_retry(
    settings: Settings, selected: Mapping[str, str]
) -> Mapping[str, Source]:
    """Read the sources where events set aside are to be read again; else there is no need."""
    if not any(parse_parked_job(job) for job in selected):
        return {}
    try:
        return inspect_sources(settings, os.environ)[0]
    except (SettingsError, SourceError) as error:
        sys.stderr.write(f"the sources cannot be read: {escape_unprintable(str(error))}\n")
        return {}


async def _is_confirmed(action: str, count: int) -> bool:
    """Ask on a terminal; where there is none, nobody could answer."""
    if not sys.stdin.isatty():
        return True
    sys.stderr.write(f"{action} {count} of the failed? [y/N] ")
    sys.stderr.flush()
    # Not by a thread, nor by input() here: a signal must still end the command.
    is_answered, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), is_answered.set)
    try:
        await is_answered.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _log_results(command: FailedCommand, results: Sequence[RetryResult]) -> None:
    """Write one fact: who took up or dropped what."""
    jobs = [result.job for result in results if result.status in _DONE_STATUSES]
    if jobs and not command.arguments.dry_run:
        event_name = "failed_retried" if command.arguments.what == "retry" else "failed_dropped"
        command.log.info(event_name, user=_current_user_name(), count=len(jobs), jobs=jobs)


def _current_user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container that was given a number only
        return f"uid {os.getuid()}"


def _report_unknown_jobs(unknown_jobs: Sequence[str]) -> int:
    for job in unknown_jobs:
        sys.stderr.write(f"{escape_unprintable(job)} is not among the failed\n")
    return _EXIT_FAILURE if unknown_jobs else 0


def _report_counts(results: Sequence[RetryResult], selected: Mapping[str, str]) -> bool:
    """Say how many came to what; tells whether some were not done as asked."""
    counts = Counter(result.status for result in results)
    counts["gone"] += len(selected) - len(results)
    summary = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    if summary:
        sys.stderr.write(f"{summary}\n")
    return bool(counts["skipped"] or counts["gone"])
