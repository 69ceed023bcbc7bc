"""What does `doctor` do? Asks whom the settings name, has the answers judged, tells them."""

import argparse
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from service.accept.signature import Unverified
from service.accept.sources import Source, SourceError
from service.backlog.failed import FailedOnes
from service.commands import find_redis
from service.configured import survey_sources
from service.house import count_tokens
from service.inspection import guess_url
from service.log import Log
from service.operate.doctor.asking import (
    ask_door,
    ask_store,
    ask_upstream,
    ask_waiting,
    name_place,
    write_question,
)
from service.operate.doctor.entrance import (
    SourceFacts,
    judge_door,
    judge_settings,
    judge_sources,
)
from service.operate.doctor.finding import Finding, find_odd
from service.operate.doctor.report import is_well, write_findings, write_findings_json
from service.operate.doctor.store import StoreFacts, judge_store
from service.operate.doctor.upstream import UpstreamFacts, judge_upstream
from service.operate.doctor.waiting import WaitingFacts, judge_waiting
from service.operate.table import measure_columns
from service.reconcile.missed import Scope
from service.settings import Settings, SettingsError, describe_settings, read_scopes
from service.store.connect import open_client
from service.store.embedded import find_server
from service.store.group import GroupCommit
from service.store.keys import Keys

_FAILURE = 1


async def examine(arguments: argparse.Namespace, settings: Settings, log: Log) -> int:
    """Look at everything, whoever is away, and tell what must be mended: 1 when anything must."""
    sources, findings = _look_at_sources(settings)
    findings = [judge_settings(_list_set()), *findings]
    store, waiting = await _look_at_store(settings, log)
    findings += [*judge_store(store)]
    if isinstance(waiting, WaitingFacts):
        findings += [*judge_waiting(waiting)]
    elif not store.trouble:
        findings.append(find_odd("backlog", f"cannot be looked at: {waiting}", ""))
    findings += [*judge_upstream(await _look_upstream(settings, sources, waiting))]
    door = await ask_door(guess_url(settings), host=settings.host, port=settings.port)
    findings.append(judge_door(door))
    told = (
        write_findings_json(findings)
        if arguments.json
        else write_findings(findings, columns=measure_columns(sys.stdout))
    )
    sys.stdout.write(told)
    return 0 if is_well(findings) else _FAILURE


def _list_set() -> list[str]:
    """List the variables that are set, never what they are set to."""
    names = [variable for variable, _, _ in describe_settings()]
    return [name for one in names for name in (one, f"{one}_FILE") if os.environ.get(name)]


def _look_at_sources(settings: Settings) -> tuple[Mapping[str, Source], list[Finding]]:
    # `serve` and `work` on a shared Redis: this machine may be the one that needs no sources.
    is_needed = not settings.redis_url or bool(settings.sources)
    try:
        sources, troubles = survey_sources(settings, os.environ)
    except (SettingsError, SourceError) as error:
        return {}, [*judge_sources([], error=str(error), is_needed=is_needed)]
    facts = [
        SourceFacts(
            source.name,
            {place: troubles[place] for place in source.secret_places if place in troubles},
            not any(isinstance(scheme, Unverified) for scheme in source.schemes),
        )
        for source in sources.values()
    ]
    return sources, [*judge_sources(facts, error="", is_needed=is_needed)]


async def _look_at_store(settings: Settings, log: Log) -> tuple[StoreFacts, WaitingFacts | str]:
    url, keys = find_redis(settings), Keys(settings.namespace)
    facts = StoreFacts(
        place=name_place(url),
        own=not settings.redis_url,
        startable=find_server() is not None,
        durability=settings.durability,
    )
    async with open_client(url, namespace=settings.namespace) as client:
        facts = await ask_store(client, facts, clock=time.time)
        if facts.trouble:
            return facts, facts.trouble
        group = GroupCommit(client, durability="memory", clock=time.monotonic, log=log)
        ones = FailedOnes(client, group, keys=keys, new_token=count_tokens())
        limit, share = settings.backlog_limit, settings.rate_share
        scopes = [Scope(*pair).name for pair in read_scopes(settings.reconcile)]
        waiting = await ask_waiting(
            client, ones, keys=keys, limit=limit, share=share, scopes=scopes
        )
        if isinstance(waiting, WaitingFacts):
            waiting = replace(
                waiting,
                dead_after_s=settings.dead_group_after,
                listed_every_s=settings.reconcile_every,
            )
        return facts, waiting


async def _look_upstream(
    settings: Settings, sources: Mapping[str, Source], waiting: WaitingFacts | str
) -> UpstreamFacts:
    """Make one call, unless others wait for just that."""
    place = _find_place([*sources.values()])
    facts = UpstreamFacts(
        origin=settings.launchdarkly_url,
        needs_token=not settings.redis_url,
        has_token=bool(settings.access_token),
        project=place[0] if place else "",
    )
    if isinstance(waiting, WaitingFacts) and not waiting.may_call:
        return replace(facts, unasked="the quota is met, and others wait for it")
    if not facts.has_token:
        return facts
    path = write_question(place, stranger=str(uuid.uuid4()))
    token = settings.access_token.reveal()
    return await ask_upstream(facts, token=token, path=path, clock=time.time)


def _find_place(sources: Sequence[Source]) -> tuple[str, str] | None:
    """Find a project and an environment of it that the sources name."""
    for source in sources:
        for environment in source.environments.values():
            if source.project:
                return source.project, environment
    return None
