"""What does `backfill` do? Queues the deployments of a past time that were never published."""

import argparse
import asyncio
import shutil
import sys

from msgspec import Struct
from msgspec.structs import replace

from service.commands import find_redis
from service.configured import require_token
from service.house import open_house
from service.log import Log, make_printable
from service.operate.progress import Progress
from service.reconcile.missed import Scope, Span, split_span
from service.reconcile.rounds import Lost, Round, Rounds
from service.reconcile.sweep import Sweeper, Swept
from service.reconciling import open_sweeper
from service.settings import Secret, Settings, SettingsError

_FAILURE = 1
_GRACE_S = 120.0
_LONGEST_WAIT_S = 5.0


class _Backfill(Struct, kw_only=True):
    """One backfill as it goes on: what is wanted, the hands for it, and what it came to."""

    scope: Scope
    dry: bool
    sweeper: Sweeper
    rounds: Rounds
    progress: Progress
    total: Swept


async def backfill(arguments: argparse.Namespace, settings: Settings, log: Log) -> int:
    """Do what was typed after `backfill`; raises redis's errors when Redis is away."""
    require_token(settings)
    begin, end = arguments.since, arguments.until
    if end is not None and begin >= end:
        raise SettingsError("--from must be before --to")
    scope = Scope(
        arguments.project, arguments.environment, "backfill", tuple(sorted(arguments.application))
    )
    # Never a server of our own: what nobody works on would fill up for nobody.
    shared = replace(settings, redis_url=Secret(find_redis(settings)))
    async with open_house(shared, log) as house:
        await house.group.connect()
        async with open_sweeper(house, grace_s=_GRACE_S) as (sweeper, rounds):
            task = _Backfill(
                scope=scope,
                dry=arguments.dry_run,
                sweeper=sweeper,
                rounds=rounds,
                progress=Progress(
                    sys.stderr,
                    is_terminal=sys.stderr.isatty(),
                    columns=shutil.get_terminal_size().columns,
                ),
                total=Swept(),
            )
            try:
                await _hold(task, begin, end)
            except Lost:
                task.total.trouble = "another process went on with it"
            finally:
                task.progress.end()
                sys.stdout.write(f"{_tell(task.total, dry=task.dry)}\n")
    if task.total.trouble:
        reason = make_printable(task.total.trouble)
        sys.stderr.write(f"not to the end: {reason}; the same command goes on from there\n")
    return _FAILURE if task.total.trouble else 0


async def _hold(task: _Backfill, begin: int, end: int | None) -> None:
    """Wait until nobody else is at the same, then go through it."""
    name = f"{'dry-run' if task.dry else 'backfill'}/{task.scope.name}/{begin}"
    while True:
        async with task.rounds.hold(name, every_ms=0) as held:
            if isinstance(held, Round):
                span = Span(begin, held.now_ms if end is None else min(end, held.now_ms))
                await _go_through(task, held, span)
                return
        task.progress.show(0.0, "another process is at it, or has just died: waiting")
        await asyncio.sleep(min(held, _LONGEST_WAIT_S))


async def _go_through(task: _Backfill, held: Round, span: Span) -> None:
    """List day after day, and remember after each how far it came."""
    begin = span.begin if held.checkpoint is None or task.dry else held.checkpoint
    if begin > span.begin:
        task.progress.show(_share(begin, span), "goes on where it was left")
    for day in split_span(Span(begin, span.end)):
        swept = await task.sweeper.sweep(held, task.scope, day, dry=task.dry)
        task.total.add(swept)
        if swept.trouble:
            return
        if not task.dry:
            await task.rounds.end(held, day.end, "goes on")
        task.progress.show(_share(day.end, span), _tell(task.total, dry=task.dry))
    await task.rounds.end(held, span.begin)  # the same command begins anew


def _share(moment: int, span: Span) -> float:
    return max(0.0, min(1.0, (moment - span.begin) / max(1, span.end - span.begin)))


def _tell(total: Swept, *, dry: bool) -> str:
    word = "to queue" if dry else "queued"
    told = f"{total.listed} listed, {total.known} known, {total.open} open, {total.missed} {word}"
    return f"{told}, {total.unreadable} unreadable" if total.unreadable else told
