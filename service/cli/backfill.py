"""What does `backfill` do? Queues the deployments of a past time that were never published."""

import argparse
import asyncio
import shutil
import sys
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from service.app import open_runtime, open_scanner
from service.cli.preconditions import require_access_token
from service.cli.run import resolve_redis_url
from service.cli.terminal import truncate_text
from service.log import Log, escape_unprintable
from service.reconcile.checkpoint import LeaseLost, Run, Runs
from service.reconcile.missed import Scope, TimeRange, split_by_day
from service.reconcile.reconciler import Scanner, ScanResult
from service.settings import Secret, Settings, SettingsError

_BAR_WIDTH = 24


class TextOutput(Protocol):
    """Where it is shown."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> object:
        """Show it now."""


class Progress:
    """One thing that goes on, shown on a stream; ``columns`` is how wide a terminal is."""

    def __init__(self, stream: TextOutput, *, is_terminal: bool, columns: int = 80) -> None:
        self._stream = stream
        self._is_terminal = is_terminal
        self._columns = columns

    def show(self, fraction: float, text: str) -> None:
        """Show which part of it is done, from 0 to 1, and what there is to say."""
        if self._is_terminal:
            filled = round(_BAR_WIDTH * fraction)
            line = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {fraction:4.0%}  {text}"
            self._stream.write(f"\r\x1b[K{truncate_text(line, self._columns - 1)}")
        else:
            self._stream.write(f"{fraction:4.0%}  {text}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave what was shown last, and go to the next line."""
        if self._is_terminal:
            self._stream.write("\n")
            self._stream.flush()


_EXIT_FAILURE = 1
_GRACE_S = 120.0
_MAX_WAIT_S = 5.0


class _Backfill(Struct, kw_only=True):
    """One backfill as it goes on: what is wanted, the hands for it, and what it came to."""

    scope: Scope
    dry_run: bool
    scanner: Scanner
    runs: Runs
    progress: Progress
    total: ScanResult


async def run_backfill(arguments: argparse.Namespace, settings: Settings, log: Log) -> int:
    """Do what was typed after `backfill`; raises redis's errors when Redis is away."""
    require_access_token(settings)
    start_ms, end_ms = arguments.since, arguments.until
    if end_ms is not None and start_ms >= end_ms:
        raise SettingsError("--from must be before --to")
    scope = Scope(
        arguments.project, arguments.environment, "backfill", tuple(sorted(arguments.application))
    )
    # Never a server of our own: what nobody works on would fill up for nobody.
    shared_settings = replace(settings, redis_url=Secret(resolve_redis_url(settings)))
    async with open_runtime(shared_settings, log) as runtime:
        await runtime.group_commit.connect()
        async with open_scanner(runtime, grace_s=_GRACE_S) as (scanner, runs):
            task = _Backfill(
                scope=scope,
                dry_run=arguments.dry_run,
                scanner=scanner,
                runs=runs,
                progress=Progress(
                    sys.stderr,
                    is_terminal=sys.stderr.isatty(),
                    columns=shutil.get_terminal_size().columns,
                ),
                total=ScanResult(),
            )
            try:
                await _scan_when_free(task, start_ms, end_ms)
            except LeaseLost:
                task.total.error = "another process went on with it"
            finally:
                task.progress.end()
                sys.stdout.write(f"{_format_total(task.total, dry_run=task.dry_run)}\n")
    if task.total.error:
        reason = escape_unprintable(task.total.error)
        sys.stderr.write(f"not to the end: {reason}; the same command goes on from there\n")
    return _EXIT_FAILURE if task.total.error else 0


async def _scan_when_free(task: _Backfill, start_ms: int, end_ms: int | None) -> None:
    """Wait until nobody else is at the same, then go through it."""
    run_name = f"{'dry-run' if task.dry_run else 'backfill'}/{task.scope.name}/{start_ms}"
    while True:
        async with task.runs.hold(run_name, interval_ms=0) as run_or_wait_s:
            if isinstance(run_or_wait_s, Run):
                time_range = TimeRange(
                    start_ms,
                    run_or_wait_s.now_ms if end_ms is None else min(end_ms, run_or_wait_s.now_ms),
                )
                await _scan_days(task, run_or_wait_s, time_range)
                return
        task.progress.show(0.0, "another process is at it, or has just died: waiting")
        await asyncio.sleep(min(run_or_wait_s, _MAX_WAIT_S))


async def _scan_days(task: _Backfill, run: Run, time_range: TimeRange) -> None:
    """List day after day, and remember after each how far it came."""
    start_ms = time_range.start_ms if run.checkpoint is None or task.dry_run else run.checkpoint
    if start_ms > time_range.start_ms:
        task.progress.show(_completed_fraction(start_ms, time_range), "goes on where it was left")
    for day in split_by_day(TimeRange(start_ms, time_range.end_ms)):
        day_result = await task.scanner.scan(run, task.scope, day, dry_run=task.dry_run)
        task.total.add(day_result)
        if day_result.error:
            return
        if not task.dry_run:
            await task.runs.end(run, day.end_ms, "continue")
        task.progress.show(
            _completed_fraction(day.end_ms, time_range),
            _format_total(task.total, dry_run=task.dry_run),
        )
    await task.runs.end(run, time_range.start_ms)  # the same command begins anew


def _completed_fraction(time_ms: int, time_range: TimeRange) -> float:
    return max(
        0.0,
        min(1.0, (time_ms - time_range.start_ms) / max(1, time_range.end_ms - time_range.start_ms)),
    )


def _format_total(total: ScanResult, *, dry_run: bool) -> str:
    queued_label = "to queue" if dry_run else "queued"
    text = (
        f"{total.listed} listed, {total.known} known, {total.still_open} open,"
        f" {total.missed} {queued_label}"
    )
    return f"{text}, {total.unreadable} unreadable" if total.unreadable else text
