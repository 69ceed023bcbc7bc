"""The commands `failed list`, `show`, `retry` and `drop`: failed tickets and parked events."""

import os
import pwd
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Literal, TypeVar

import click
from msgspec import Struct

from service.accept.sources import Source, SourceError
from service.app import build_token_factory
from service.backlog.failed_tickets import MAX_BATCH, FailedTickets, RetryResult
from service.backlog.failures import FailedTicket, Requeue, parse_parked_job
from service.cli.failed_text import (
    render_failed_details,
    render_failed_header,
    render_failed_json,
    render_failed_row,
    render_retry_result,
)
from service.cli.parameters import MAX_NUMBER, parse_duration
from service.cli.preconditions import configure_log, inspect_sources, resolve_redis_url
from service.cli.signals import run_async, signals_cancel_at_once
from service.cli.terminal import EXIT_CODES, EXIT_FAILURE
from service.log import Log, escape_unprintable
from service.settings import Settings, SettingsError, read_settings
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

_DONE_STATUSES = {"queued", "superseded", "dropped"}

Action = Literal["retry", "drop"]
Function = TypeVar("Function", bound=Callable[..., Any])


class FailedFilter(Struct, frozen=True, kw_only=True):
    """Which failed tickets are selected; None selects any. Ages are seconds."""

    reason: str | None = None
    source: str | None = None
    application: str | None = None
    older_than: float | None = None
    newer_than: float | None = None

    def time_range_ms(self, now_ms: float) -> tuple[float, float]:
        """Return the oldest and the newest time of failure that is selected, in epoch ms."""
        oldest_ms = float("-inf") if self.newer_than is None else now_ms - self.newer_than * 1000
        newest_ms = float("inf") if self.older_than is None else now_ms - self.older_than * 1000
        return oldest_ms, newest_ms

    def matches(self, failed: FailedTicket, now_ms: float) -> bool:
        """Return whether a failed ticket is selected."""
        oldest_ms, newest_ms = self.time_range_ms(now_ms)
        return (
            self.reason in {None, failed.reason}
            and self.source in {None, failed.source}
            and self.application in {None, failed.application}
            and oldest_ms <= failed.at_ms <= newest_ms
        )


class Selection(Struct, frozen=True, kw_only=True):
    """The failed tickets that a command acts on: these jobs, or all that the filter leaves."""

    jobs: tuple[str, ...] = ()
    select_all: bool = False
    failed_filter: FailedFilter = FailedFilter()
    limit: int | None = None


def _filter_options(function: Function) -> Function:
    """Add the options that select failed tickets."""
    for option in reversed(
        (
            click.option("--reason", metavar="WORD", help="Such as not_found or unmappable."),
            click.option("--source", metavar="NAME", help="Name of the source."),
            click.option("--application", metavar="KEY", help="LaunchDarkly's application key."),
            click.option(
                "--older-than",
                type=parse_duration,
                metavar="AGE",
                help="Failed longer ago than 90s, 30m, 2h or 7d.",
            ),
            click.option(
                "--newer-than",
                type=parse_duration,
                metavar="AGE",
                help="Failed more recently than 90s, 30m, 2h or 7d.",
            ),
            click.option(
                "--limit",
                type=click.IntRange(1, MAX_NUMBER),
                metavar="N",
                help="Only the N newest.",
            ),
        )
    ):
        function = option(function)
    return function


def _action_options(function: Function) -> Function:
    """Add what `retry` and `drop` take."""
    for option in reversed(
        (
            click.argument("jobs", nargs=-1, metavar="[JOB]..."),
            click.option("--all", "select_all", is_flag=True, help="All that the filters leave."),
            click.option("--dry-run", is_flag=True, help="Only print what would be done."),
            click.option("--yes", is_flag=True, help="Do not ask before --all."),
        )
    ):
        function = option(function)
    return function


@click.group("failed", epilog=EXIT_CODES)
def failed_commands() -> None:
    """List failed tickets and parked events; retry or drop them."""


@failed_commands.command("list", epilog=EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@_filter_options
@run_async
async def list_command(*, as_json: bool, limit: int | None, **filters: Any) -> None:
    """List failed tickets and parked events, the newest first."""
    settings = read_settings(os.environ)
    async with open_failed_command(settings, configure_log(settings)) as command:
        await command.list_tickets(FailedFilter(**filters), limit=limit, as_json=as_json)


@failed_commands.command("show", epilog=EXIT_CODES)
@click.argument("job", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@run_async
async def show_command(*, job: str, as_json: bool) -> int:
    """Print everything known of one JOB of `failed list`."""
    settings = read_settings(os.environ)
    async with open_failed_command(settings, configure_log(settings)) as command:
        return await command.show_ticket(job, as_json=as_json)


@failed_commands.command("retry", epilog=EXIT_CODES)
@_action_options
@_filter_options
@run_async
async def retry_command(**arguments: Any) -> int:
    """Queue each JOB again, due now; map parked events again."""
    return await _retry_or_drop("retry", **arguments)


@failed_commands.command("drop", epilog=EXIT_CODES)
@_action_options
@_filter_options
@run_async
async def drop_command(**arguments: Any) -> int:
    """Delete each JOB for good."""
    return await _retry_or_drop("drop", **arguments)


async def _retry_or_drop(
    action: Action,
    *,
    jobs: tuple[str, ...],
    select_all: bool,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    **filters: Any,
) -> int:
    settings = read_settings(os.environ)
    if bool(jobs) is select_all:
        raise click.UsageError("name the jobs, or give --all (the filters select)")
    selection = Selection(
        jobs=jobs, select_all=select_all, failed_filter=FailedFilter(**filters), limit=limit
    )
    async with open_failed_command(settings, configure_log(settings)) as command:
        return await command.retry_or_drop(action, selection, dry_run=dry_run, confirmed=yes)


class FailedCommand:
    """The failed tickets of a namespace, and what a user does with them."""

    def __init__(
        self,
        failed_tickets: FailedTickets,
        group_commit: GroupCommit,
        *,
        settings: Settings,
        log: Log,
        now_ms: int,
    ) -> None:
        self._failed_tickets = failed_tickets
        self._group_commit = group_commit
        self._settings = settings
        self._log = log
        self._now_ms = now_ms  # Redis's time

    async def list_tickets(
        self, failed_filter: FailedFilter, *, limit: int | None, as_json: bool
    ) -> None:
        """Print the selected tickets, at most ``limit``."""
        shown_count = 0
        async for failed in self._iterate_matching(failed_filter):
            if limit is not None and shown_count == limit:
                click.echo(f"there are more than these {limit}", err=True)
                break
            if not shown_count and not as_json:
                click.echo(render_failed_header())
            click.echo(
                render_failed_json(failed)
                if as_json
                else render_failed_row(failed, now_ms=self._now_ms)
            )
            shown_count += 1
        if not shown_count:
            click.echo("no failed tickets", err=True)

    async def show_ticket(self, job: str, *, as_json: bool) -> int:
        """Print one ticket in full; return 1 if the job has not failed."""
        failed = await self._failed_tickets.read_whole(job)
        if failed is None:
            _report_unknown_job(job)
            return EXIT_FAILURE
        page = (
            f"{render_failed_json(failed, is_whole=True)}\n"
            if as_json
            else render_failed_details(failed, now_ms=self._now_ms)
        )
        click.echo(page, nl=False)
        return 0

    async def retry_or_drop(
        self,
        action: Action,
        selection: Selection,
        *,
        dry_run: bool,
        confirmed: bool,
    ) -> int:
        """Retry or drop the selected tickets, and log who did it; return 1 if some were not."""
        digests, unknown_jobs = await self._select_tickets(selection)
        if not digests:
            click.echo("no failed tickets are selected", err=True)
        elif not dry_run:
            await self._group_commit.connect()
            if selection.select_all and not confirmed and not _confirm(action, len(digests)):
                click.echo("nothing was done", err=True)
                return EXIT_FAILURE
        results: list[RetryResult] = []
        try:
            async for result in self._process(action, digests, dry_run=dry_run):
                click.echo(render_retry_result(result, is_dry_run=dry_run))
                results.append(result)
        finally:
            if not dry_run:
                self._log_results(action, results)
        for job in unknown_jobs:
            _report_unknown_job(job)
        all_done = _report_counts(results, selected_count=len(digests))
        return 0 if all_done and not unknown_jobs else EXIT_FAILURE

    async def _process(
        self, action: Action, digests: Mapping[str, str], *, dry_run: bool
    ) -> AsyncIterator[RetryResult]:
        """Process the tickets in batches, leaving out those that changed since they were read."""
        sources = _read_sources_for_retry(self._settings, digests) if action == "retry" else {}
        jobs = [*digests]
        for start in range(0, len(jobs), MAX_BATCH):
            batch = await self._failed_tickets.read(jobs[start : start + MAX_BATCH])
            unchanged = [ticket for ticket in batch if ticket.digest == digests[ticket.job]]
            if dry_run:
                results = [await self._preview(action, ticket, sources) for ticket in unchanged]
            elif action == "retry":
                results = await self._failed_tickets.retry(unchanged, sources)
            else:
                results = await self._failed_tickets.drop(unchanged)
            for result in results:
                yield result

    async def _preview(
        self, action: Action, failed: FailedTicket, sources: Mapping[str, Source]
    ) -> RetryResult:
        """Return the result that a ticket would have."""
        if action == "drop":
            return RetryResult(failed.job, "dropped")
        plan = await self._failed_tickets.plan_retry(failed, sources)
        if isinstance(plan, Requeue):
            return RetryResult(failed.job, "queued", plan.job if plan.job != failed.job else "")
        return RetryResult(failed.job, "skipped", plan.reason)

    async def _iterate_matching(self, failed_filter: FailedFilter) -> AsyncIterator[FailedTicket]:
        time_range_ms = failed_filter.time_range_ms(self._now_ms)
        async for failed in self._failed_tickets.list_newest(time_range_ms):
            if failed_filter.matches(failed, self._now_ms):
                yield failed

    async def _select_tickets(self, selection: Selection) -> tuple[dict[str, str], list[str]]:
        """Return the digest of each selected ticket by its job, and the named jobs not failed."""
        if selection.select_all:
            digests: dict[str, str] = {}
            async for failed in self._iterate_matching(selection.failed_filter):
                if selection.limit is not None and len(digests) == selection.limit:
                    break
                digests[failed.job] = failed.digest
            return digests, []
        tickets = await self._failed_tickets.read(selection.jobs)
        matching = [
            ticket for ticket in tickets if selection.failed_filter.matches(ticket, self._now_ms)
        ]
        known_jobs = {ticket.job for ticket in tickets}
        unknown_jobs = [job for job in dict.fromkeys(selection.jobs) if job not in known_jobs]
        return {ticket.job: ticket.digest for ticket in matching[: selection.limit]}, unknown_jobs

    def _log_results(self, action: Action, results: Sequence[RetryResult]) -> None:
        """Log one line: which user retried or dropped what."""
        jobs = [result.job for result in results if result.status in _DONE_STATUSES]
        if jobs:
            event_name = "failed_retried" if action == "retry" else "failed_dropped"
            self._log.info(event_name, user=_current_user_name(), count=len(jobs), jobs=jobs)


@asynccontextmanager
async def open_failed_command(settings: Settings, log: Log) -> AsyncIterator[FailedCommand]:
    """Connect to the failed tickets of the settings' namespace; raises redis's errors."""
    keys = Keys(settings.namespace)
    async with open_client(resolve_redis_url(settings), namespace=settings.namespace) as client:
        group_commit = GroupCommit(
            client,
            durability=settings.durability,
            clock=monotonic,
            log=log,
            probe_key=keys.write_probe,
        )
        failed_tickets = FailedTickets(
            client, group_commit, keys=keys, new_token=build_token_factory()
        )
        try:
            yield FailedCommand(
                failed_tickets,
                group_commit,
                settings=settings,
                log=log,
                now_ms=await failed_tickets.read_time_ms(),
            )
        finally:
            await group_commit.aclose()


def _read_sources_for_retry(settings: Settings, jobs: Collection[str]) -> Mapping[str, Source]:
    """Return the sources if a parked event is among the jobs: only those are mapped again."""
    if not any(parse_parked_job(job) for job in jobs):
        return {}
    try:
        return inspect_sources(settings, os.environ)[0]
    except (SettingsError, SourceError) as error:
        click.echo(f"the sources cannot be read: {escape_unprintable(str(error))}", err=True)
        return {}


def _confirm(action: Action, count: int) -> bool:
    """Ask on a terminal, where an end of input is a no; without a terminal return True."""
    if not sys.stdin.isatty():
        return True
    with signals_cancel_at_once():
        try:
            return click.confirm(f"{action} {count} failed tickets?", err=True)
        except click.Abort:
            click.echo(err=True)
            return False


def _current_user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number without a name
        return f"uid {os.getuid()}"


def _report_unknown_job(job: str) -> None:
    click.echo(f"{escape_unprintable(job)} has not failed", err=True)


def _report_counts(results: Sequence[RetryResult], *, selected_count: int) -> bool:
    """Print how many tickets had which result; return whether all were done."""
    counts = Counter(result.status for result in results)
    counts["gone"] += selected_count - len(results)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    if summary:
        click.echo(summary, err=True)
    return not (counts["skipped"] or counts["gone"])
