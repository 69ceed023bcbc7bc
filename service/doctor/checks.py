"""Findings, and the checks that make them from facts: pure, one finding per thing checked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, assert_never
from urllib.parse import urlsplit

from msgspec import Struct

from service.console.format import format_age
from service.enrich.proxy import LOOPBACK_HOSTS, hide_login
from service.enrich.rate_limits import RateLimitWindow
from service.store.services import ManagedService

FindingStatus = Literal["ok", "warning", "error"]

_OTHER_ADDRESS_FIX = "choose another address with ENRICHER_HOST and ENRICHER_PORT"
_CLOCK_ERROR_S = 60.0  # receivers refuse signatures that are five minutes old: complain long before


class Finding(Struct, frozen=True, kw_only=True):
    """The result of one check: what was found, and the fix where one is needed.

    A warning deserves attention; an error stops something from working.
    """

    check: str
    status: FindingStatus
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """Return the finding of a check that passed."""
    return Finding(check=check, status="ok", found=found)


def warn(check: str, found: str, fix: str) -> Finding:
    """Return a finding that deserves attention."""
    return Finding(check=check, status="warning", found=found, fix=fix)


def fail(check: str, found: str, fix: str) -> Finding:
    """Return a finding that stops something from working."""
    return Finding(check=check, status="error", found=found, fix=fix)


def split_fix(text: str) -> tuple[str, str]:
    """Split one of the service's own messages into the problem and its fix."""
    for separator in (". ", ": "):
        found, has_fix, fix = text.partition(separator)
        if has_fix:
            return found, fix
    return text, ""


def check_clock(
    check: str, ahead_s: float | None, *, clock_name: str, tolerance_s: float
) -> Finding:
    """Check how far another clock is ahead of this machine's (negative: behind)."""
    if ahead_s is None:
        return warn(check, f"{clock_name} could not be read", "")
    found = (
        f"{clock_name} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this one"
    )
    if abs(ahead_s) <= tolerance_s:
        return ok(check, f"{clock_name} agrees with this machine's")
    fix = "synchronise the clocks of both machines with NTP"
    return (fail if abs(ahead_s) > _CLOCK_ERROR_S else warn)(check, found, fix)


class SourceFacts(Struct, frozen=True):
    """One source: the errors of its secrets by location, and whether it verifies signatures."""

    name: str
    secret_errors: Mapping[str, str]
    is_verified: bool


class ReceiverFacts(Struct, frozen=True):
    """What answers at the receiver's address.

    ``ours`` is a receiver of this service, ``stranger`` another program. ``free`` means that
    nothing listens, ``unusable`` that nothing can (``detail`` is why), ``any`` that the port is 0.
    """

    address: str
    state: Literal["ours", "stranger", "free", "unusable", "any"]
    detail: str = ""


def check_settings(names: Sequence[str]) -> Finding:
    """Return which settings are set. A wrong value ends the command before any check runs."""
    return ok("settings", f"set: {', '.join(names)}" if names else "all are the defaults")


def check_sources(
    sources: Sequence[SourceFacts], *, error: str, is_needed: bool
) -> Iterator[Finding]:
    """Check whether each source can be served; ``error`` is why the sources could not be read."""
    if error:
        build_finding = fail if is_needed else warn
        yield build_finding(
            "sources", error, "fix it, then run `sources list`; only `work` needs no sources"
        )
    for source in sources:
        check_name = f"source {source.name}"
        for location, secret_error in source.secret_errors.items():
            yield fail(
                check_name,
                f"{location} {secret_error}",
                "set it: without it the receiver cannot serve this source",
            )
        if not source.is_verified:
            fix = "add `verify` and `secrets` to it, unless only trusted senders reach the receiver"
            yield warn(
                check_name, "has no verification: anyone who reaches the receiver can post", fix
            )
        elif not source.secret_errors:
            yield ok(check_name, "loads, its secrets are set")


def check_body_limit(max_body_bytes: int, max_buffered_bytes: int) -> Finding:
    """Return how large a webhook may be, and how much of all webhooks a receiver holds."""
    found = (
        f"up to {_format_size(max_body_bytes)} each, {_format_size(max_buffered_bytes)} at a time;"
        " a proxy in front must let them through"
    )
    return ok("webhook bodies", found)


def check_receiver(facts: ReceiverFacts) -> Finding:
    """Check the address that the receiver listens on."""
    match facts.state:
        case "ours":
            return ok("receiver", f"answers at {facts.address}")
        case "free":
            return ok("receiver", f"{facts.address} is free: `run` or `serve` can listen there")
        case "any":
            return ok("receiver", f"{facts.address}: any free port")
        case "stranger":
            return fail(
                "receiver", f"another program answers at {facts.address}", _OTHER_ADDRESS_FIX
            )
        case "unusable":
            found = f"cannot listen on {facts.address}: {facts.detail}"
            return fail("receiver", found, _OTHER_ADDRESS_FIX)
        case never:
            assert_never(never)


_MIN_CLOCK_STEP_S = 1.0
_REDIS_CLOCK_TOLERANCE_S = 1.0
_MEMORY_WARN_SHARE, _MEMORY_FAIL_SHARE = 0.8, 0.95


class RedisFacts(Struct, frozen=True, kw_only=True):
    """What Redis answered, and what the service would say about it at start.

    ``connection_error`` is set when Redis is away, with ``bad_password`` when it refuses the login.
    ``startup_error`` and ``warnings`` are what the service reports at start. ``is_embedded`` means
    that no Redis is configured, so `run` starts one if ``can_start``. ``guarantee`` says how writes
    become durable. ``service`` is the managed service, if it is recognised.
    """

    location: str
    is_embedded: bool
    can_start: bool = True
    connection_error: str = ""
    bad_password: bool = False
    startup_error: str = ""
    warnings: tuple[str, ...] = ()
    guarantee: str = ""
    durability: str = "fsync"
    service: ManagedService | None = None
    info: Mapping[str, str] = {}
    clock_ahead_s: float | None = None


def check_redis(facts: RedisFacts) -> Iterator[Finding]:
    """Check Redis; when it is away, that is the only finding."""
    if facts.connection_error:
        yield _check_unreachable_redis(facts)
        return
    yield ok("redis", f"answers at {facts.location}, {_format_version(facts.info)}")
    if facts.service is not None:
        yield _check_service(facts.service, facts.durability)
    if facts.startup_error:
        found, fix = split_fix(facts.startup_error)
        yield fail("redis durability", found, fix)
    elif facts.durability == "memory":
        yield warn(
            "redis durability",
            "memory: a crash of Redis loses accepted webhooks",
            facts.service.advice if facts.service else "set ENRICHER_DURABILITY=fsync",
        )
    else:
        yield ok("redis durability", f"{facts.durability}: {facts.guarantee}")
    for warning in facts.warnings:
        found, fix = split_fix(warning)
        yield warn("redis configuration", found, fix)
    yield from _check_disk(facts.info, is_managed=facts.service is not None)
    yield _check_memory(facts.info)
    yield check_clock(
        "redis clock",
        facts.clock_ahead_s,
        clock_name="Redis's clock",
        tolerance_s=_REDIS_CLOCK_TOLERANCE_S,
    )


def _check_service(service: ManagedService, durability: str) -> Finding:
    found = f"{service.name}: {service.promise}"
    if durability in {*service.fits, "server"}:  # an unfit "server" is warned of at start already
        return ok("redis service", found)
    return warn("redis service", found, service.advice)


def _check_unreachable_redis(facts: RedisFacts) -> Finding:
    if facts.bad_password:
        fix = "correct user and password in ENRICHER_REDIS_URL"
        return fail("redis", f"{facts.location} refuses the login: {facts.connection_error}", fix)
    if not facts.is_embedded:
        fix = (
            "start it, or correct ENRICHER_REDIS_URL; until then the receiver answers 503. If it"
            " ends again, see its log: the disk of Redis may be full"
        )
        return fail("redis", f"{facts.location} is away: {facts.connection_error}", fix)
    if facts.can_start:
        fix = "start `run`, or set ENRICHER_REDIS_URL to a Redis of yours"
        return warn("redis", f"the embedded server does not run ({facts.location})", fix)
    fix = "pip install 'deployment-enricher[embedded]', or set ENRICHER_REDIS_URL"
    return fail("redis", "ENRICHER_REDIS_URL is not set, and no embedded server is installed", fix)


def _format_version(info: Mapping[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else "of unknown version"


def _check_disk(info: Mapping[str, str], *, is_managed: bool) -> Iterator[Finding]:
    """Check whether Redis's last writes to disk succeeded, as far as INFO says.

    The INFO of a managed service does not know how the service itself keeps writes.
    """
    error_texts = {
        "aof_last_write_status": "the last write to the append-only file failed",
        "aof_last_bgrewrite_status": "the last rewrite of the append-only file failed",
        "rdb_last_bgsave_status": "the last snapshot failed",
    }
    errors = [text for name, text in error_texts.items() if info.get(name, "ok") != "ok"]
    if errors:
        yield fail(
            "redis disk", "; ".join(errors), "see Redis's log, and check whether its disk is full"
        )
    elif "aof_enabled" in info and not is_managed:
        persistence = "an append-only file" if info["aof_enabled"] == "1" else "only snapshots"
        yield ok("redis disk", f"writes {persistence}, without errors")


def _check_memory(info: Mapping[str, str]) -> Finding:
    used_bytes, max_bytes = (
        _parse_info_number(info, name) for name in ("used_memory", "maxmemory")
    )
    if used_bytes is None:
        return warn("redis memory", "INFO is not available", "allow INFO in the ACL of this user")
    if not max_bytes:
        return ok("redis memory", f"{_format_size(used_bytes)} used, no maxmemory")
    found = f"{_format_size(used_bytes)} of {_format_size(max_bytes)} used"
    if used_bytes < max_bytes * _MEMORY_WARN_SHARE:
        return ok("redis memory", found)
    fix = "raise maxmemory, or lower ENRICHER_STREAM_RETENTION; a full Redis means 503"
    return (fail if used_bytes >= max_bytes * _MEMORY_FAIL_SHARE else warn)(
        "redis memory", found, fix
    )


def _parse_info_number(info: Mapping[str, str], name: str) -> int | None:
    text = info.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else None


def _format_size(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 else f"{size / 1024**2:.1f} MiB"


_LAUNCHDARKLY_CLOCK_TOLERANCE_S = 3.0  # Date has whole seconds, and the response took time
_OK, _BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN = 200, 400, 401, 403
_NOT_FOUND, _TOO_MANY_REQUESTS = 404, 429


class UpstreamFacts(Struct, frozen=True, kw_only=True):
    """What one call to LaunchDarkly returned.

    ``skipped_reason`` is why no call was made, ``no_response_reason`` why no response came.
    ``project`` is the project whose deployments were listed; without one, the call asked for a
    deployment that cannot exist. ``is_json`` means that the body was a JSON object, and
    ``message`` is its message. ``windows`` are the rate-limit windows of the response. ``proxy`` is
    the URL of the proxy for the call, if there is one, or ``proxy_error`` why it cannot be used.
    """

    origin: str
    needs_token: bool = True
    has_token: bool = True
    skipped_reason: str = ""
    no_response_reason: str = ""
    status: int = 0
    is_json: bool = True
    message: str = ""
    project: str = ""
    clock_ahead_s: float | None = None
    windows: Sequence[RateLimitWindow] = ()
    proxy: str | None = None
    proxy_error: str = ""


def check_upstream(facts: UpstreamFacts) -> Iterator[Finding]:
    """Check the proxy, reachability, token, beta header, clock and quota."""
    if facts.proxy_error:
        yield fail("proxy", facts.proxy_error, "change HTTPS_PROXY, or name the host in NO_PROXY")
        return
    if facts.proxy:
        yield ok("proxy", f"calls to LaunchDarkly go through {hide_login(facts.proxy)}")
    parts = urlsplit(facts.origin)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        fix = "use https:// in ENRICHER_LAUNCHDARKLY_URL"
        yield warn("launchdarkly", "the token is sent unencrypted", fix)
    if not facts.has_token:
        build_finding = fail if facts.needs_token else warn
        fix = "set LAUNCHDARKLY_ACCESS_TOKEN (role Reader is enough); only `serve` needs no token"
        yield build_finding("token", "is not set, so no call was made", fix)
    elif facts.skipped_reason:
        yield ok("launchdarkly", f"no call was made: {facts.skipped_reason}")
    elif facts.no_response_reason:
        fix = "check ENRICHER_LAUNCHDARKLY_URL, DNS, HTTPS_PROXY, and the firewall"
        yield fail("launchdarkly", f"{facts.origin}: no answer ({facts.no_response_reason})", fix)
    else:
        yield from _check_response(facts)


def _check_response(facts: UpstreamFacts) -> Iterator[Finding]:
    status = facts.status
    expected = {_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY_REQUESTS}
    if status not in expected or (status in {_OK, _NOT_FOUND} and not facts.is_json):
        fix = "check ENRICHER_LAUNCHDARKLY_URL, then https://status.launchdarkly.com"
        body_kind = "JSON" if facts.is_json else "a body that is not JSON"
        yield fail("launchdarkly", f"{facts.origin} answers {status} with {body_kind}", fix)
        return
    yield ok("launchdarkly", f"{facts.origin} answers {status}")
    if status == _TOO_MANY_REQUESTS:
        yield warn("token", "could not be checked: the rate limit is reached", "try again later")
    else:
        yield from _check_access(facts)
    yield check_clock(
        "launchdarkly clock",
        facts.clock_ahead_s,
        clock_name="LaunchDarkly's clock",
        tolerance_s=_LAUNCHDARKLY_CLOCK_TOLERANCE_S,
    )
    yield _check_quota(facts.windows)


def _check_access(facts: UpstreamFacts) -> Iterator[Finding]:
    if facts.status == _UNAUTHORIZED:
        fix = "create a token with the role Reader, and set LAUNCHDARKLY_ACCESS_TOKEN to it"
        yield fail("token", "is refused (401)", fix)
    elif facts.status == _FORBIDDEN and "beta" in facts.message.lower():
        fix = "check whether a proxy on the way removes the header LD-API-Version"
        yield fail("beta header", f"does not reach LaunchDarkly: {facts.message}", fix)
    elif facts.status == _FORBIDDEN and facts.project:
        fix = "allow its custom role to view the project (`viewProject`)"
        yield fail("token", f"may not read project {facts.project!r} (403): {facts.message}", fix)
    elif facts.status == _FORBIDDEN:
        fix = "give its role access to Engineering Insights (Reader has it)"
        yield fail("token", f"may not read deployments (403): {facts.message}", fix)
    else:
        yield ok("token", "is accepted")
        yield ok("beta header", "is accepted")
        if facts.project and facts.status == _NOT_FOUND:
            found = f"{facts.project!r} does not exist, or the token may not read it"
            yield warn("project", found, "correct `project` in the sources file")


class ScopeFacts(Struct, frozen=True):
    """What LaunchDarkly lists for a reconcile scope; ``is_empty``: no deployment of any time."""

    name: str
    status: int
    is_empty: bool


def check_scopes(scopes: Sequence[ScopeFacts]) -> Iterator[Finding]:
    """Check whether LaunchDarkly knows the reconcile scopes."""
    fix = "check the spelling in ENRICHER_RECONCILE_SCOPES"
    for scope in scopes:
        check_name = f"scope {scope.name}"
        if scope.status in {_BAD_REQUEST, _NOT_FOUND}:
            yield warn(check_name, f"is unknown to LaunchDarkly ({scope.status})", fix)
        elif scope.is_empty:
            yield warn(check_name, "LaunchDarkly has never listed a deployment of it", fix)


class FlagEventFacts(Struct, frozen=True):
    """What LaunchDarkly answered to one list of flag events; ``status`` 0: there was no answer.

    ``scope`` is the project and environment, empty if nothing names one.
    """

    scope: str
    status: int = 0
    message: str = ""


def check_flag_events(facts: FlagEventFacts) -> Finding:
    """Check whether the token may read flag events, of a service that adds them to records."""
    fix = "give the token's role access to Engineering Insights, or set ENRICHER_FLAG_EVENTS=off"
    if not facts.scope:
        found = "not checked: no source and no reconcile scope names a project and environment"
        return ok("flag events", found)
    if facts.status in {_UNAUTHORIZED, _FORBIDDEN}:
        found = f"the token may not read those of {facts.scope} ({facts.status}): {facts.message}"
        return warn("flag events", found, fix)
    if facts.status not in {_OK, _TOO_MANY_REQUESTS}:
        found = f"{facts.scope}: {facts.status or 'no answer'}"
        return warn("flag events", found, "check the project and the environment; try again later")
    return ok("flag events", f"the token may read those of {facts.scope}")


def _check_quota(windows: Sequence[RateLimitWindow]) -> Finding:
    if not windows:
        return ok("quota", "unknown: the response has no rate-limit headers")
    counts = ", ".join(
        f"{window.family} {window.remaining}{f' of {window.limit}' if window.limit else ''}"
        for window in windows
    )
    if any(window.remaining == 0 for window in windows):
        return warn(
            "quota",
            f"calls left: {counts}",
            "other clients use the quota up: see ENRICHER_RATE_LIMIT_SHARE",
        )
    return ok("quota", f"calls left: {counts}")


_BACKLOG_WARN_SHARE = 0.8
_WORKER_START_S = 10.0
_LATE_AFTER_INTERVALS = 3


class BacklogFacts(Struct, frozen=True, kw_only=True):
    """The state of the backlog, the budget, the reader groups and the reconcile scopes.

    ``oldest_s`` is the age of the oldest ticket (of the next 64), ``overdue_s`` how long ago the
    next ticket was due. ``leased`` is 0 when every lease has ended. ``idle_workers`` counts clients
    blocked on a list, as idle workers are; None when Redis does not say. ``failed`` counts by
    reason. ``group_idle_s`` is for how long each reader group has not read, and
    ``idle_group_timeout_s`` is when that counts as idle. ``forbidden`` names the projects and
    environments that the access token may not read. ``clock_behind_s`` is by how much Redis's clock
    was set back. ``scope_age_s`` is how long ago each
    reconcile scope was listed to its end; None for never. ``stalled_s`` is for how long no worker
    was alive while tickets wait; None if one may be.
    """

    waiting: int = 0
    limit: int
    due: int = 0
    overdue_s: float = 0.0
    oldest_s: float = 0.0
    leased: int = 0
    idle_workers: int | None = None
    failed_total: int = 0
    failed: Mapping[str, int] = {}
    closed_s: float = 0.0
    closed_reason: str = ""
    forbidden: str = ""
    clock_behind_s: float = 0.0
    calls_available: int = 0
    opens_in_s: float = 0.0
    group_idle_s: Mapping[str, float] = {}
    idle_group_timeout_s: float = 604_800.0
    scope_age_s: Mapping[str, float | None] = {}
    reconcile_interval_s: float = 600.0
    stalled_s: float | None = None

    @property
    def can_call(self) -> bool:
        """Whether one more call delays no worker. A call with a refused token delays none."""
        if self.closed_s > 0:
            return self.closed_reason != "rate limited"
        return self.calls_available >= 1


def check_work(facts: BacklogFacts) -> Iterator[Finding]:
    """Check backlog, workers, budget, readers, reconciling and failed tickets."""
    yield _check_backlog(facts)
    yield _check_workers(facts)
    yield _check_budget(facts)
    yield _check_projects(facts)
    yield _check_reader_groups(facts)
    if facts.clock_behind_s >= _MIN_CLOCK_STEP_S:
        found = f"it was set back by {facts.clock_behind_s:.1f} s; waiting tickets do not notice"
        fix = "synchronise all Redis servers with NTP; the difference is worked off by itself"
        yield warn("redis clock", found, fix)
    if facts.scope_age_s:
        yield _check_reconcile(facts)
    if not facts.failed_total:
        yield ok("failed", "none")
        return
    counts = sorted(facts.failed.items(), key=lambda pair: (-pair[1], pair[0]))
    summary = ", ".join(f"{count} {reason}" for reason, count in counts)
    found = f"{facts.failed_total}: {summary}" if summary else f"{facts.failed_total}"
    fix = "see `failed list` and `failed show` for the reasons, then `failed retry`"
    yield warn("failed", found, fix)


def _check_reader_groups(facts: BacklogFacts) -> Finding:
    idle_groups = {
        name: idle_s
        for name, idle_s in facts.group_idle_s.items()
        if idle_s >= facts.idle_group_timeout_s
    }
    if not idle_groups:
        found = ", ".join(sorted(facts.group_idle_s)) or "no reader group"
        return ok("readers", found)
    found = ", ".join(
        f"{name} has not read for {format_age(idle_s, digits=1)}"
        for name, idle_s in sorted(idle_groups.items())
    )
    fix = "start its readers, or delete it with XGROUP DESTROY; unread records are trimmed by age"
    return warn("readers", found, fix)


def _check_reconcile(facts: BacklogFacts) -> Finding:
    late_s = _LATE_AFTER_INTERVALS * facts.reconcile_interval_s
    ages = [
        f"{name} {'never' if age_s is None else format_age(age_s, digits=1) + ' ago'}"
        for name, age_s in sorted(facts.scope_age_s.items())
    ]
    found = f"last listed: {', '.join(ages)}"
    if all(age_s is not None and age_s <= late_s for age_s in facts.scope_age_s.values()):
        return ok("reconcile", found)
    fix = "a worker lists them when nothing else is due; see `reconcile_failed` in its log"
    return warn("reconcile", found, fix)


def _check_backlog(facts: BacklogFacts) -> Finding:
    if not facts.waiting:
        return ok("backlog", "empty")
    found = (
        f"{facts.waiting} waiting, {facts.due} due, the oldest is "
        f"{format_age(facts.oldest_s, digits=1)} old"
    )
    if facts.waiting >= facts.limit:
        fix = "add workers or quota, or raise ENRICHER_BACKLOG_LIMIT; the receiver answers 503"
        return fail("backlog", f"{found}: the backlog is full", fix)
    if facts.waiting >= facts.limit * _BACKLOG_WARN_SHARE:
        return warn("backlog", found, f"ENRICHER_BACKLOG_LIMIT is {facts.limit}")
    return ok("backlog", found)


def _check_workers(facts: BacklogFacts) -> Finding:
    if facts.leased:
        return ok(
            "workers", f"working on {facts.leased} {'ticket' if facts.leased == 1 else 'tickets'}"
        )
    if facts.idle_workers:
        return ok("workers", f"{facts.idle_workers} idle")
    fix = "start `work`, or `run`"
    if facts.stalled_s is not None:
        found = f"none for {format_age(facts.stalled_s, digits=1)}, and {facts.waiting} wait"
        return fail("workers", found, fix)
    if facts.due and facts.overdue_s > _WORKER_START_S and facts.closed_s <= 0:
        found = f"no worker claims a ticket due since {format_age(facts.overdue_s, digits=1)}"
        return fail("workers", found, fix)
    if facts.idle_workers is None:
        return ok("workers", "unknown: no ticket is leased, and Redis does not list its clients")
    return warn("workers", "none", fix)


def _check_projects(facts: BacklogFacts) -> Finding:
    if not facts.forbidden:
        return ok("projects", "the token may read all that were asked for")
    fix = (
        "allow the token's custom role to view them (`viewProject`), then run "
        "`failed retry --all --reason forbidden`"
    )
    return warn("projects", f"the token may not read {facts.forbidden}", fix)


def _check_budget(facts: BacklogFacts) -> Finding:
    if facts.closed_reason == "token refused":
        fix = "set LAUNCHDARKLY_ACCESS_TOKEN to a valid token; until then every ticket waits"
        return fail("budget", "closed: LaunchDarkly refuses the access token", fix)
    if facts.closed_s > 0:
        found = (
            f"closed for {format_age(facts.closed_s, digits=1)} more: "
            f"{facts.closed_reason or 'no reason known'}"
        )
        fix = "it opens by itself; if it closes often, lower ENRICHER_RATE_LIMIT_SHARE"
        if facts.closed_reason == "upstream failing":
            fix = "it opens by itself; see https://status.launchdarkly.com"
        return warn("budget", found, fix)
    if facts.calls_available < 1:
        return ok("budget", f"used up, opens in {format_age(facts.opens_in_s, digits=1)}")
    return ok("budget", f"open, {facts.calls_available} calls left")
