"""The command `backfill`: queue the deployments of a past time that were never published."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from msgspec.structs import replace

from service.app import open_runtime, open_scanner
from service.cli.parameters import parse_time_ms
from service.cli.preconditions import configure_log, require_access_token, resolve_redis_url
from service.cli.signals import run_async
from service.cli.terminal import EXIT_CODES, EXIT_FAILURE, truncate_text
from service.console.format import explain_reason
from service.enrich.verdict import FORBIDDEN
from service.log import Log, escape_unprintable
from service.reconcile.checkpoint import LeaseLost, Run, Runs
from service.reconcile.missed import Scope, TimeRange, split_by_day
from service.reconcile.reconciler import NEVER_LISTED, UNKNOWN_SCOPE, Scanner, ScanResult
from service.settings import Secret, Settings, read_settings

_BAR_WIDTH = 16
_GRACE_S = 120.0
_MAX_WAIT_S = 5.0

ShowProgress = Callable[[float, str], None]
"""Show which part is done, from 0 to 1, and a text beside it."""


@click.command("backfill", epilog=EXIT_CODES)
@click.option("--project", metavar="KEY", required=True, help="LaunchDarkly's project key.")
@click.option("--environment", metavar="KEY", required=True, help="LaunchDarkly's environment key.")
@click.option(
    "--application", "applications", metavar="KEY", multiple=True, help="Only this; repeatable."
)
@click.option(
    "--from",
    "start_ms",
    type=parse_time_ms,
    metavar="TIME",
    required=True,
    help="2026-11-01 or 2026-11-01T12:00+01:00; UTC if no offset.",
)
@click.option("--to", "end_ms", type=parse_time_ms, metavar="TIME", help="As --from; default: now.")
@click.option("--dry-run", is_flag=True, help="Only count what would be queued.")
@run_async
async def backfill_command(
    *,
    project: str,
    environment: str,
    applications: tuple[str, ...],
    start_ms: int,
    end_ms: int | None,
    dry_run: bool,
) -> int:
    """Queue deployments of a past time that were never published."""
    settings = read_settings(os.environ)
    log = configure_log(settings)
    require_access_token(settings)
    if end_ms is not None and start_ms >= end_ms:
        raise click.UsageError("--from must be before --to")
    if start_ms >= time.time() * 1000:
        raise click.UsageError("--from is in the future: give a time before now")
    scope = Scope(project, environment, "backfill", tuple(sorted(applications)))
    return await run_backfill(
        settings, log, scope=scope, start_ms=start_ms, end_ms=end_ms, dry_run=dry_run
    )


async def run_backfill(
    settings: Settings, log: Log, *, scope: Scope, start_ms: int, end_ms: int | None, dry_run: bool
) -> int:
    """Run a backfill, print its result and return the exit code.

    Raises redis's errors when Redis is away.
    """
    # An embedded server started here would be filled, and no worker would read it.
    shared_settings = replace(settings, redis_url=Secret(resolve_redis_url(settings)))
    async with open_runtime(shared_settings, log) as runtime:
        await runtime.group_commit.connect()
        async with open_scanner(runtime, grace_s=_GRACE_S) as (scanner, runs):
            backfill = Backfill(scanner, runs, scope=scope, dry_run=dry_run)
            try:
                with _open_progress_bar() as show_progress:
                    await backfill.run(start_ms, end_ms, show_progress)
            except LeaseLost:
                backfill.result.error = "another process took it over"
            finally:
                click.echo(backfill.format_result())
    if backfill.is_never_listed:
        click.echo(f"{escape_unprintable(scope.name)}: {NEVER_LISTED}", err=True)
    if backfill.result.error:
        reason = escape_unprintable(_describe_error(backfill.result.error))
        click.echo(f"stopped early: {reason}; the same command continues from there", err=True)
    return EXIT_FAILURE if backfill.result.error else 0


def _describe_error(error: str) -> str:
    if error == UNKNOWN_SCOPE:
        return "LaunchDarkly does not know the project or the environment; check the spelling"
    return explain_reason(error) if error == FORBIDDEN else error


class Backfill:
    """One backfill: a scope whose days are listed one after the other, and what they held."""

    def __init__(self, scanner: Scanner, runs: Runs, *, scope: Scope, dry_run: bool) -> None:
        self._scanner = scanner
        self._runs = runs
        self._scope = scope
        self._dry_run = dry_run
        self.result = ScanResult()
        self.is_never_listed = False

    async def run(self, start_ms: int, end_ms: int | None, show_progress: ShowProgress) -> None:
        """Wait until no other process runs the same backfill, then list its days.

        Raises LeaseLost when another process takes it over.
        """
        run_name = f"{'dry-run' if self._dry_run else 'backfill'}/{self._scope.name}/{start_ms}"
        while True:
            async with self._runs.hold(run_name, interval_ms=0) as run_or_wait_s:
                if isinstance(run_or_wait_s, Run):
                    now_ms = run_or_wait_s.now_ms
                    time_range = TimeRange(
                        start_ms, now_ms if end_ms is None else min(end_ms, now_ms)
                    )
                    await self._scan_days(run_or_wait_s, time_range, show_progress)
                    return
            show_progress(0.0, "waiting: another process runs this backfill or just died")
            await asyncio.sleep(min(run_or_wait_s, _MAX_WAIT_S))

    async def _scan_days(
        self, run: Run, time_range: TimeRange, show_progress: ShowProgress
    ) -> None:
        """List day after day, and store after each how far the run has come."""
        start_ms = (
            time_range.start_ms if run.checkpoint is None or self._dry_run else run.checkpoint
        )
        if start_ms > time_range.start_ms:
            show_progress(_completed_fraction(start_ms, time_range), "continuing where it stopped")
        for day in split_by_day(TimeRange(start_ms, time_range.end_ms)):
            day_result = await self._scanner.scan(run, self._scope, day, dry_run=self._dry_run)
            self.result.add(day_result)
            if day_result.error:
                return
            if not self._dry_run:
                await self._runs.end(run, day.end_ms, "continue")
            show_progress(_completed_fraction(day.end_ms, time_range), self.format_result())
        await self._runs.end(run, time_range.start_ms)  # the same command starts over
        if not self.result.listed:
            self.is_never_listed = await self._scanner.is_never_listed(run, self._scope)

    def format_result(self) -> str:
        """Return what the days until now held."""
        queued_label = "to queue" if self._dry_run else "queued"
        text = (
            f"{self.result.listed} listed, {self.result.known} known,"
            f" {self.result.still_open} open, {self.result.missed} {queued_label}"
        )
        unreadable = self.result.unreadable
        return f"{text}, {unreadable} unreadable" if unreadable else text


@contextmanager
def _open_progress_bar() -> Iterator[ShowProgress]:
    """Show progress on stderr: a bar on a terminal, else a line for each change."""
    is_terminal = sys.stderr.isatty()
    with click.progressbar(
        length=100,
        label="  0%  listing",
        show_eta=False,
        show_percent=False,
        bar_template="[%(bar)s] %(label)s",
        width=_BAR_WIDTH,
        file=sys.stderr,
    ) as bar:

        def show_progress(fraction: float, text: str) -> None:
            max_columns = shutil.get_terminal_size().columns - _BAR_WIDTH - len("[] ") - 1
            label = f"{fraction:4.0%}  {text}"
            bar.label = truncate_text(label, max_columns) if is_terminal else label
            bar.update(round(fraction * 100) - bar.pos)
            bar.render_progress()

        yield show_progress


def _completed_fraction(time_ms: int, time_range: TimeRange) -> float:
    duration_ms = max(1, time_range.end_ms - time_range.start_ms)
    return max(0.0, min(1.0, (time_ms - time_range.start_ms) / duration_ms))
