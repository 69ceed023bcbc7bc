"""What does `failed` do? Lists what was given up, shows one, takes it up again, drops it."""

import argparse
import asyncio
import os
import pwd
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import assert_never

from msgspec import Struct

from service.accept.sources import Source, SourceError
from service.backlog.again import Requeue, plan_retry
from service.backlog.failed import MAX_BATCH, FailedTickets, RetryResult
from service.backlog.failure import FailedTicket, parse_parked_job
from service.commands import resolve_redis_url
from service.configured import inspect_sources
from service.house import build_token_factory
from service.log import Log, escape_unprintable
from service.operate.failed import (
    render_failed_details,
    render_failed_header,
    render_failed_json,
    render_failed_row,
    render_retry_result,
)
from service.operate.sieve import FailedFilter
from service.settings import Settings, SettingsError
from service.store.connect import open_client
from service.store.group import GroupCommit
from service.store.keys import Keys

_EXIT_FAILURE = 1
_DONE_STATUSES = {"queued", "waits", "dropped"}


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
    return RetryResult(failed.job, "left", plan.reason)


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
        command.log.info(event_name, who=_current_user_name(), count=len(jobs), jobs=jobs)


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
    return bool(counts["left"] or counts["gone"])
