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
from service.backlog.again import Anew, take_up
from service.backlog.failed import BATCH, FailedOnes, Fate
from service.backlog.failure import Failed, read_aside
from service.commands import find_redis
from service.configured import survey_sources
from service.house import count_tokens
from service.log import Log, make_printable
from service.operate.failed import (
    write_failed,
    write_failed_header,
    write_failed_json,
    write_fate,
    write_page,
)
from service.operate.sieve import Sieve
from service.settings import Settings, SettingsError
from service.store.connect import open_client
from service.store.group import GroupCommit
from service.store.keys import Keys

_FAILURE = 1
_DONE = {"queued", "waits", "dropped"}


class Desk(Struct, frozen=True):
    """What lies before the person: the failed, what was asked, and the time by Redis (ms)."""

    ones: FailedOnes
    group: GroupCommit
    arguments: argparse.Namespace
    settings: Settings
    log: Log
    now_ms: int


async def mend(arguments: argparse.Namespace, settings: Settings, log: Log) -> int:
    """Do what was typed after `failed`; raises redis's errors when Redis is away."""
    async with _open_desk(arguments, settings, log) as desk:
        match arguments.what:
            case "list":
                return await _list(desk)
            case "show":
                return await _show(desk)
            case "retry" | "drop":
                return await _settle(desk)
            case never:
                assert_never(never)


@asynccontextmanager
async def _open_desk(
    arguments: argparse.Namespace, settings: Settings, log: Log
) -> AsyncIterator[Desk]:
    keys = Keys(settings.namespace)
    async with open_client(find_redis(settings), namespace=settings.namespace) as client:
        group = GroupCommit(client, durability=settings.durability, clock=monotonic, log=log)
        ones = FailedOnes(client, group, keys=keys, new_token=count_tokens())
        try:
            yield Desk(ones, group, arguments, settings, log, await ones.tell_time())
        finally:
            await group.aclose()


async def _list(desk: Desk) -> int:
    as_json, limit = desk.arguments.json, desk.arguments.limit
    shown = 0
    async for failed in _sift(desk):
        if limit is not None and shown == limit:
            sys.stderr.write(f"there are more than these {limit}\n")
            break
        if not shown and not as_json:
            sys.stdout.write(f"{write_failed_header()}\n")
        line = write_failed_json(failed) if as_json else write_failed(failed, now_ms=desk.now_ms)
        sys.stdout.write(f"{line}\n")
        shown += 1
    if not shown:
        sys.stderr.write("nothing that has failed\n")
    return 0


async def _show(desk: Desk) -> int:
    found = await desk.ones.read([desk.arguments.job])
    if not found:
        return _complain_of([desk.arguments.job])
    as_json = desk.arguments.json
    page = (
        f"{write_failed_json(found[0], whole=True)}\n"
        if as_json
        else write_page(found[0], now_ms=desk.now_ms)
    )
    sys.stdout.write(page)
    return 0


async def _settle(desk: Desk) -> int:
    """Retry or drop what is meant, and write down who did it."""
    arguments = desk.arguments
    if bool(arguments.jobs) is arguments.all:
        raise SettingsError("name the jobs, or say --all (the filters say which)")
    meant, strangers = await _choose(desk)
    if not meant:
        sys.stderr.write("nothing that has failed is meant\n")
    elif not arguments.dry_run:
        await desk.group.connect()
        if arguments.all and not arguments.yes and not await _is_sure(arguments.what, len(meant)):
            sys.stderr.write("nothing was done\n")
            return _FAILURE
    sources = _find_sources(desk.settings, meant) if arguments.what == "retry" else {}
    fates: list[Fate] = []
    try:
        jobs = list(meant)
        for at in range(0, len(jobs), BATCH):
            batch = await desk.ones.read(jobs[at : at + BATCH])
            fates += await _act(
                desk, [one for one in batch if one.digest == meant[one.job]], sources
            )
    finally:
        _write_down(desk, fates)
    return _FAILURE if _complain_of(strangers) or _tell_sum(fates, meant) else 0


async def _act(desk: Desk, batch: Sequence[Failed], sources: Mapping[str, Source]) -> list[Fate]:
    """Do one batch, or only say what would be done."""
    planned, is_retry = desk.arguments.dry_run, desk.arguments.what == "retry"
    if planned:
        fates = [_plan(one, sources) if is_retry else Fate(one.job, "dropped") for one in batch]
    elif is_retry:
        fates = await desk.ones.retry(batch, sources)
    else:
        fates = await desk.ones.drop(batch)
    for fate in fates:
        sys.stdout.write(f"{write_fate(fate, only_planned=planned)}\n")
    return fates


def _plan(failed: Failed, sources: Mapping[str, Source]) -> Fate:
    plan = take_up(failed, sources)
    if isinstance(plan, Anew):
        return Fate(failed.job, "queued", plan.job if plan.job != failed.job else "")
    return Fate(failed.job, "left", plan.reason)


async def _sift(desk: Desk) -> AsyncIterator[Failed]:
    sieve = _make_sieve(desk.arguments)
    async for failed in desk.ones.list_newest(sieve.find_span(desk.now_ms)):
        if sieve.passes(failed, desk.now_ms):
            yield failed


async def _choose(desk: Desk) -> tuple[dict[str, str], list[str]]:
    """Give what is meant, each with the digest of what was seen, and named jobs that are none."""
    arguments = desk.arguments
    meant: dict[str, str] = {}
    if arguments.all:
        async for failed in _sift(desk):
            if arguments.limit is not None and len(meant) == arguments.limit:
                break
            meant[failed.job] = failed.digest
        return meant, []
    found = await desk.ones.read(arguments.jobs)
    sieve = _make_sieve(arguments)
    fit = [one for one in found if sieve.passes(one, desk.now_ms)][: arguments.limit]
    known = {one.job for one in found}
    strangers = [job for job in dict.fromkeys(arguments.jobs) if job not in known]
    return {one.job: one.digest for one in fit}, strangers


def _make_sieve(arguments: argparse.Namespace) -> Sieve:
    return Sieve(**{name: getattr(arguments, name) for name in Sieve.__struct_fields__})


def _find_sources(settings: Settings, meant: Mapping[str, str]) -> Mapping[str, Source]:
    """Read the sources where events set aside are to be read again; else there is no need."""
    if not any(read_aside(job) for job in meant):
        return {}
    try:
        return survey_sources(settings, os.environ)[0]
    except (SettingsError, SourceError) as error:
        sys.stderr.write(f"the sources cannot be read: {make_printable(str(error))}\n")
        return {}


async def _is_sure(what: str, count: int) -> bool:
    """Ask on a terminal; where there is none, nobody could answer."""
    if not sys.stdin.isatty():
        return True
    sys.stderr.write(f"{what} {count} of the failed? [y/N] ")
    sys.stderr.flush()
    # Not by a thread, nor by input() here: a signal must still end the command.
    answered, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), answered.set)
    try:
        await answered.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _write_down(desk: Desk, fates: Sequence[Fate]) -> None:
    """Write one fact: who took up or dropped what."""
    jobs = [fate.job for fate in fates if fate.fate in _DONE]
    if jobs and not desk.arguments.dry_run:
        fact = "failed_retried" if desk.arguments.what == "retry" else "failed_dropped"
        desk.log.info(fact, who=_name_user(), count=len(jobs), jobs=jobs)


def _name_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container that was given a number only
        return f"uid {os.getuid()}"


def _complain_of(strangers: Sequence[str]) -> int:
    for job in strangers:
        sys.stderr.write(f"{make_printable(job)} is not among the failed\n")
    return _FAILURE if strangers else 0


def _tell_sum(fates: Sequence[Fate], meant: Mapping[str, str]) -> bool:
    """Say how many came to what; tells whether some were not done as asked."""
    counts = Counter(fate.fate for fate in fates)
    counts["gone"] += len(meant) - len(fates)
    told = ", ".join(f"{count} {fate}" for fate, count in counts.items() if count)
    if told:
        sys.stderr.write(f"{told}\n")
    return bool(counts["left"] or counts["gone"])
