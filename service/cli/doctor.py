"""The command `doctor`: check settings, Redis, backlog, LaunchDarkly and the receiver."""

import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence

import click
from msgspec.structs import replace

from service.accept.signatures import Unverified
from service.accept.sources import Source, SourceError
from service.app import find_configured_proxy
from service.cli.preconditions import (
    configure_log,
    inspect_sources,
    local_receiver_url,
    resolve_redis_url,
)
from service.cli.signals import run_async
from service.cli.tail import measure_terminal_width
from service.cli.terminal import EXIT_FAILURE
from service.doctor.checks import (
    BacklogFacts,
    Finding,
    FlagEventFacts,
    RedisFacts,
    ScopeFacts,
    SourceFacts,
    UpstreamFacts,
    check_body_limit,
    check_flag_events,
    check_receiver,
    check_redis,
    check_scopes,
    check_settings,
    check_sources,
    check_upstream,
    check_work,
    warn,
)
from service.doctor.probes import (
    probe_backlog,
    probe_flag_events,
    probe_receiver,
    probe_redis,
    probe_scopes,
    probe_upstream,
    probe_write,
    redis_location,
    upstream_path,
)
from service.doctor.report import format_findings, format_findings_json, has_no_error
from service.doctor.write_check import check_write
from service.log import Log
from service.metrics.namespace import NamespaceReader
from service.reconcile.missed import Scope
from service.settings import (
    Settings,
    SettingsError,
    list_settings,
    parse_scopes,
    read_settings,
)
from service.store.connect import open_client
from service.store.embedded import find_server
from service.store.group_commit import GroupCommit
from service.store.keys import Keys

_EXIT_CODES = "Exit codes: 0 no error found, 1 at least one error, 2 a wrong argument or setting."


@click.command("doctor", epilog=_EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@run_async
async def doctor_command(*, as_json: bool) -> int:
    """Check everything and print what is wrong with its fix."""
    settings = read_settings(os.environ)
    return await run_doctor(settings, configure_log(settings), as_json=as_json)


async def run_doctor(settings: Settings, log: Log, *, as_json: bool = False) -> int:
    """Run every check, whatever is away, print the findings, and return 1 if one is a failure."""
    sources, findings = _check_configured_sources(settings)
    findings = [check_settings(_list_set_variables()), *findings]
    redis_facts, backlog_facts = await _probe_redis_and_backlog(settings, log)
    findings += [*check_redis(redis_facts)]
    if isinstance(backlog_facts, BacklogFacts):
        findings += [*check_work(backlog_facts)]
    elif not redis_facts.connection_error:
        findings.append(warn("backlog", f"cannot be read: {backlog_facts}", ""))
    upstream_facts = await _probe_launchdarkly(settings, sources, backlog_facts)
    findings += [*check_upstream(upstream_facts)]
    if upstream_facts.status:
        findings += [*check_scopes(await _probe_scopes(settings))]
        if settings.flag_events == "on":
            findings.append(check_flag_events(await _probe_flag_events(settings, sources)))
        findings += await _check_write(settings, sources)
    receiver_facts = await probe_receiver(
        local_receiver_url(settings), host=settings.host, port=settings.port
    )
    findings.append(check_receiver(receiver_facts))
    findings.append(check_body_limit(settings.max_body_bytes, settings.max_buffered_bytes))
    report = (
        format_findings_json(findings)
        if as_json
        else format_findings(findings, terminal_width=measure_terminal_width(sys.stdout))
    )
    click.echo(report, nl=False)
    return 0 if has_no_error(findings) else EXIT_FAILURE


def _list_set_variables() -> list[str]:
    """Return the names of the variables that are set, never their values."""
    names = [variable for variable, _, _ in list_settings()]
    return [
        name for setting in names for name in (setting, f"{setting}_FILE") if os.environ.get(name)
    ]


def _check_configured_sources(settings: Settings) -> tuple[Mapping[str, Source], list[Finding]]:
    # With a shared Redis this may be a machine that only runs `work`, which needs no sources.
    is_needed = not settings.redis_url or bool(settings.sources)
    try:
        sources, secret_problems = inspect_sources(settings, os.environ)
    except (SettingsError, SourceError) as error:
        return {}, [*check_sources([], error=str(error), is_needed=is_needed)]
    facts = [
        SourceFacts(
            source.name,
            {
                location: secret_problems[location]
                for location in source.secret_locations
                if location in secret_problems
            },
            not any(isinstance(scheme, Unverified) for scheme in source.schemes),
        )
        for source in sources.values()
    ]
    return sources, [*check_sources(facts, error="", is_needed=is_needed)]


async def _probe_redis_and_backlog(
    settings: Settings, log: Log
) -> tuple[RedisFacts, BacklogFacts | str]:
    url, keys = resolve_redis_url(settings), Keys(settings.namespace)
    facts = RedisFacts(
        location=redis_location(url),
        is_embedded=not settings.redis_url,
        can_start=find_server() is not None,
        durability=settings.durability,
    )
    async with open_client(url, namespace=settings.namespace) as client:
        facts = await probe_redis(client, facts, keys=keys, url=url, clock=time.time)
        if facts.connection_error:
            return facts, facts.connection_error
        group_commit = GroupCommit(client, durability="memory", clock=time.monotonic, log=log)
        namespace_reader = NamespaceReader(group_commit, keys=keys, share=settings.rate_limit_share)
        scopes = [Scope(*pair).name for pair in parse_scopes(settings.reconcile_scopes)]
        backlog_facts = await probe_backlog(
            client,
            namespace_reader.read_stats,
            keys=keys,
            limit=settings.backlog_limit,
            lease_s=settings.lease,
            scopes=scopes,
        )
        await group_commit.aclose()
        if isinstance(backlog_facts, BacklogFacts):
            backlog_facts = replace(
                backlog_facts,
                idle_group_timeout_s=settings.idle_group_timeout,
                reconcile_interval_s=settings.reconcile_interval,
            )
        return facts, backlog_facts


async def _probe_launchdarkly(
    settings: Settings, sources: Mapping[str, Source], backlog_facts: BacklogFacts | str
) -> UpstreamFacts:
    """Make one call to LaunchDarkly, unless the budget has none to spare."""
    project_environment = _find_project_environment([*sources.values()])
    facts = UpstreamFacts(
        origin=settings.launchdarkly_url,
        needs_token=not settings.redis_url,
        has_token=bool(settings.access_token),
        project=project_environment[0] if project_environment else "",
    )
    try:
        facts = replace(facts, proxy=find_configured_proxy(settings))
    except SettingsError as error:
        return replace(facts, proxy_error=str(error))
    if isinstance(backlog_facts, BacklogFacts) and not backlog_facts.can_call:
        return replace(facts, skipped_reason="the rate limit is reached, and tickets wait for it")
    if not facts.has_token:
        return facts
    path = upstream_path(project_environment, unknown_id=str(uuid.uuid4()))
    token = settings.access_token.reveal()
    return await probe_upstream(facts, token=token, path=path, clock=time.time)


async def _check_write(settings: Settings, sources: Mapping[str, Source]) -> list[Finding]:
    """Check whether the token may write, if a source needs it."""
    names = [source.name for source in sources.values() if source.report]
    if not names:
        return []
    facts = await probe_write(
        names,
        origin=settings.launchdarkly_url,
        proxy=find_configured_proxy(settings),
        token=settings.access_token.reveal(),
        clock=time.time,
    )
    return [check_write(facts)]


async def _probe_scopes(settings: Settings) -> list[ScopeFacts]:
    return await probe_scopes(
        parse_scopes(settings.reconcile_scopes),
        origin=settings.launchdarkly_url,
        proxy=find_configured_proxy(settings),
        token=settings.access_token.reveal(),
        clock=time.time,
    )


async def _probe_flag_events(settings: Settings, sources: Mapping[str, Source]) -> FlagEventFacts:
    scopes = parse_scopes(settings.reconcile_scopes)
    return await probe_flag_events(
        _find_project_environment([*sources.values()]) or next(iter(scopes), None),
        origin=settings.launchdarkly_url,
        proxy=find_configured_proxy(settings),
        token=settings.access_token.reveal(),
        clock=time.time,
    )


def _find_project_environment(sources: Sequence[Source]) -> tuple[str, str] | None:
    """Return a project and one of its environments that the sources name."""
    for source in sources:
        for environment in source.environments.values():
            if source.project:
                return source.project, environment
    return None
