"""Checks of the settings, the sources and who listens at the receiver's address."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, assert_never
from urllib.parse import urlsplit

from msgspec import Struct

from service.doctor.report import Finding, check_clock, fail, format_span, ok, split_fix, warn
from service.enrich.rate_limits import RateLimitWindow

_OTHER_ADDRESS_FIX = "choose another by ENRICHER_HOST and ENRICHER_PORT"


class SourceFacts(Struct, frozen=True):
    """One source: what is wrong with its secrets, by their place, and whether it asks for any."""

    name: str
    secret_errors: Mapping[str, str]
    is_verified: bool


class ReceiverFacts(Struct, frozen=True):
    """Who is at the address: we, somebody else, nobody, or nobody could be (and why)."""

    address: str
    state: Literal["ours", "stranger", "free", "unusable", "any"]
    detail: str = ""


def check_settings(names: Sequence[str]) -> Finding:
    """Say which variables are set; what is wrong with one is an error before anything else."""
    return ok("settings", f"set: {', '.join(names)}" if names else "all are the defaults")


def check_sources(
    sources: Sequence[SourceFacts], *, error: str, is_needed: bool
) -> Iterator[Finding]:
    """Judge whether each source can be served; ``error``: they could not be read."""
    if error:
        build_finding = fail if is_needed else warn
        yield build_finding(
            "sources", error, "mend it, then `sources list`; only `work` needs none"
        )
    for source in sources:
        check_name = f"source {source.name}"
        for location, secret_error in source.secret_errors.items():
            yield fail(
                check_name, f"{location} {secret_error}", "set it: this source cannot be served"
            )
        if not source.is_verified:
            fix = "give it `verify` and `secrets`, unless nobody else can reach the receiver"
            yield warn(check_name, "whoever reaches the receiver is believed", fix)
        elif not source.secret_errors:
            yield ok(check_name, "loads, its secrets are set")


def check_receiver(facts: ReceiverFacts) -> Finding:
    """Judge the address that the receiver listens on, or would."""
    match facts.state:
        case "ours":
            return ok("receiver", f"answers at {facts.address}")
        case "free":
            return ok("receiver", f"{facts.address} is free: `run` or `serve` can listen there")
        case "any":
            return ok("receiver", f"{facts.address}: any free port will do")
        case "stranger":
            return fail("receiver", f"somebody else answers at {facts.address}", _OTHER_ADDRESS_FIX)
        case "unusable":
            found = f"{facts.address} cannot be listened on: {facts.detail}"
            return fail("receiver", found, _OTHER_ADDRESS_FIX)
        case never:
            assert_never(never)


_REDIS_CLOCK_TOLERANCE_S = 1.0
_MEMORY_WARN_SHARE, _MEMORY_FAIL_SHARE = 0.8, 0.95


class RedisFacts(Struct, frozen=True, kw_only=True):
    """What was asked of Redis. With ``trouble`` it is away; ``bad_password``: it refuses us.

    ``refusal`` and ``warnings`` are what the service itself would say at start. ``own``: no Redis
    is named, so `run` starts one, if ``startable``. ``promise`` is how writes are kept.
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
    info: Mapping[str, str] = {}
    clock_ahead_s: float | None = None


def check_redis(facts: RedisFacts) -> Iterator[Finding]:
    """Judge Redis; once it is away there is nothing more to say."""
    if facts.connection_error:
        yield _check_unreachable_redis(facts)
        return
    yield ok("redis", f"answers at {facts.location}, {_format_version(facts.info)}")
    if facts.startup_error:
        found, fix = split_fix(facts.startup_error)
        yield fail("redis durability", found, fix)
    elif facts.durability == "memory":
        yield warn(
            "redis durability",
            "nothing is waited for: a crash of Redis loses webhooks that were accepted",
            "say ENRICHER_DURABILITY=fsync",
        )
    else:
        yield ok("redis durability", f"{facts.durability}: {facts.guarantee}")
    for warning in facts.warnings:
        found, fix = split_fix(warning)
        yield warn("redis fitness", found, fix)
    yield from _check_disk(facts.info)
    yield _check_memory(facts.info)
    yield check_clock(
        "redis clock",
        facts.clock_ahead_s,
        clock_name="Redis's clock",
        tolerance_s=_REDIS_CLOCK_TOLERANCE_S,
    )


def _check_unreachable_redis(facts: RedisFacts) -> Finding:
    if facts.bad_password:
        fix = "mend user and password in ENRICHER_REDIS_URL"
        return fail("redis", f"{facts.location} does not let us in: {facts.connection_error}", fix)
    if not facts.is_embedded:
        fix = "start it, or mend ENRICHER_REDIS_URL; until then webhooks are answered with 503"
        return fail("redis", f"{facts.location} is away: {facts.connection_error}", fix)
    if facts.can_start:
        fix = "start `run`, or name yours by ENRICHER_REDIS_URL"
        return warn("redis", f"our own does not run ({facts.location})", fix)
    fix = "pip install 'deployment-enricher[embedded]', or name yours by ENRICHER_REDIS_URL"
    return fail("redis", "none is named, and there is no server to start", fix)


def _format_version(info: Mapping[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else "of unknown version"


def _check_disk(info: Mapping[str, str]) -> Iterator[Finding]:
    """Judge whether the last writes to disk went well, as far as Redis tells."""
    error_texts = {
        "aof_last_write_status": "the last write to the append-only file failed",
        "aof_last_bgrewrite_status": "the last rewrite of the append-only file failed",
        "rdb_last_bgsave_status": "the last snapshot failed",
    }
    errors = [text for name, text in error_texts.items() if info.get(name, "ok") != "ok"]
    if errors:
        yield fail("redis disk", "; ".join(errors), "see Redis's log; is its disk full?")
    elif "aof_enabled" in info:
        persistence = "an append-only file" if info["aof_enabled"] == "1" else "snapshots at most"
        yield ok("redis disk", f"writes {persistence}, without errors")


def _check_memory(info: Mapping[str, str]) -> Finding:
    used_bytes, max_bytes = (
        _parse_info_number(info, name) for name in ("used_memory", "maxmemory")
    )
    if used_bytes is None:
        return warn("redis memory", "Redis does not tell", "allow INFO in the ACL of our user")
    if not max_bytes:
        return ok("redis memory", f"{_format_size(used_bytes)} used, no maxmemory")
    found = f"{_format_size(used_bytes)} of {_format_size(max_bytes)} used"
    if used_bytes < max_bytes * _MEMORY_WARN_SHARE:
        return ok("redis memory", found)
    fix = "raise maxmemory, or lower ENRICHER_STREAM_RETENTION; when full, webhooks get 503"
    return (fail if used_bytes >= max_bytes * _MEMORY_FAIL_SHARE else warn)(
        "redis memory", found, fix
    )


def _parse_info_number(info: Mapping[str, str], name: str) -> int | None:
    text = info.get(name, "")
    return int(text) if text.isdecimal() else None


def _format_size(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 else f"{size / 1024**2:.1f} MiB"


_LAUNCHDARKLY_CLOCK_TOLERANCE_S = 3.0  # Date has whole seconds, and the answer took its time
_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY_REQUESTS = 200, 401, 403, 404, 429
_LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}


class UpstreamFacts(Struct, frozen=True, kw_only=True):
    """What one call told. ``unasked`` says why there was none, ``silence`` why no answer came.

    ``project`` is the one whose deployments were listed; without it a deployment was asked for
    that cannot be there. ``is_json``: the body was a JSON object; ``words`` is what it said.
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


def check_upstream(facts: UpstreamFacts) -> Iterator[Finding]:
    """Judge reachability, token, beta header, clock and quota."""
    parts = urlsplit(facts.origin)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK_HOSTS:
        fix = "say https:// in ENRICHER_LAUNCHDARKLY_URL"
        yield warn("launchdarkly", "the token travels unencrypted", fix)
    if not facts.has_token:
        build_finding = fail if facts.needs_token else warn
        fix = "set LAUNCHDARKLY_ACCESS_TOKEN (a Reader role is enough); only `serve` needs none"
        yield build_finding("token", "is not set: LaunchDarkly was not asked", fix)
    elif facts.skipped_reason:
        yield ok("launchdarkly", f"not asked: {facts.skipped_reason}")
    elif facts.no_response_reason:
        fix = "check ENRICHER_LAUNCHDARKLY_URL, the name server, and what filters outgoing traffic"
        yield fail("launchdarkly", f"{facts.origin}: no answer ({facts.no_response_reason})", fix)
    else:
        yield from _check_response(facts)


def _check_response(facts: UpstreamFacts) -> Iterator[Finding]:
    status = facts.status
    expected = {_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY_REQUESTS}
    if status not in expected or (status in {_OK, _NOT_FOUND} and not facts.is_json):
        fix = "is ENRICHER_LAUNCHDARKLY_URL right? else see https://status.launchdarkly.com"
        body_kind = "JSON" if facts.is_json else "no JSON"
        yield fail("launchdarkly", f"{facts.origin} answers {status} with {body_kind}", fix)
        return
    yield ok("launchdarkly", f"{facts.origin} answers {status}")
    if status == _TOO_MANY_REQUESTS:
        yield warn("token", "cannot be told: the rate limit is reached", "try again later")
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
        fix = "make a new one with a Reader role, and set LAUNCHDARKLY_ACCESS_TOKEN"
        yield fail("token", "is refused (401)", fix)
    elif facts.status == _FORBIDDEN and "beta" in facts.message.lower():
        fix = "does a proxy in between take the header LD-API-Version away?"
        yield fail("beta header", f"does not arrive: {facts.message}", fix)
    elif facts.status == _FORBIDDEN:
        fix = "give its role access to Engineering Insights (Reader has it)"
        yield fail("token", f"may not read deployments (403): {facts.message}", fix)
    else:
        yield ok("token", "is accepted")
        yield ok("beta header", "is accepted")
        if facts.project and facts.status == _NOT_FOUND:
            found = f"LaunchDarkly knows no project {facts.project!r}, or the token may not see it"
            yield warn("project", found, "mend `project` in the file of sources")


def _check_quota(windows: Sequence[RateLimitWindow]) -> Finding:
    if not windows:
        return ok("quota", "its headers say nothing: we feel our way")
    counts = ", ".join(
        f"{window.family} {window.remaining}{f' of {window.limit}' if window.limit else ''}"
        for window in windows
    )
    if any(window.remaining == 0 for window in windows):
        return warn(
            "quota", f"calls left: {counts}", "others use it up: see ENRICHER_RATE_LIMIT_SHARE"
        )
    return ok("quota", f"calls left: {counts}")


_BACKLOG_WARN_SHARE = 0.8
_WORKER_START_S = 10.0
_LATE_AFTER_INTERVALS = 3


class BacklogFacts(Struct, frozen=True, kw_only=True):
    """How the backlog and the budget stand at one moment.

    ``oldest_s`` is since when the oldest ticket waits (of those looked at), ``overdue_s`` since
    when the first is due. ``listening`` counts clients blocked on a list, as idle workers are;
    None: Redis does not tell. ``failed`` counts by reason; ``partly``: only the newest were read.
    ``unseen_s`` is for how long each reader group was not seen, ``dead_after_s`` when that is long.
    ``listed_s`` is how long ago each scope of reconciling was listed to its end, None for never.
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
    calls_available: int = 0
    opens_in_s: float = 0.0
    group_idle_s: Mapping[str, float] = {}
    idle_group_timeout_s: float = 604_800.0
    scope_age_s: Mapping[str, float | None] = {}
    reconcile_interval_s: float = 600.0

    @property
    def can_call(self) -> bool:
        """Tell whether one more call takes nothing that others wait for."""
        if self.closed_s > 0:
            return self.closed_reason != "rate limited"
        return self.calls_available >= 1


def check_work(facts: BacklogFacts) -> Iterator[Finding]:
    """Judge backlog, workers, budget and failures."""
    yield _check_backlog(facts)
    yield _check_workers(facts)
    yield _check_budget(facts)
    yield _check_reader_groups(facts)
    if facts.scope_age_s:
        yield _check_reconcile(facts)
    if not facts.failed_total:
        yield ok("failed", "none")
        return
    counts = sorted(facts.failed.items(), key=lambda pair: (-pair[1], pair[0]))
    summary = ", ".join(f"{count} {reason}" for reason, count in counts)
    if sum(facts.failed.values()) < facts.failed_total:
        summary = f"of the newest {summary}"
    fix = "`failed list` and `failed show` tell why, `failed retry` takes them up again"
    yield warn("failed", f"{facts.failed_total}: {summary}", fix)


def _check_reader_groups(facts: BacklogFacts) -> Finding:
    idle_groups = {
        name: idle_s
        for name, idle_s in facts.group_idle_s.items()
        if idle_s >= facts.idle_group_timeout_s
    }
    if not idle_groups:
        found = ", ".join(sorted(facts.group_idle_s)) or "no group reads the stream"
        return ok("readers", found)
    found = ", ".join(
        f"{name} was not seen for {format_span(idle_s)}"
        for name, idle_s in sorted(idle_groups.items())
    )
    fix = "start its readers, or remove it: XGROUP DESTROY; what it has not read is trimmed by age"
    return warn("readers", found, fix)


def _check_reconcile(facts: BacklogFacts) -> Finding:
    late_s = _LATE_AFTER_INTERVALS * facts.reconcile_interval_s
    ages = [
        f"{name} {'never' if age_s is None else format_span(age_s) + ' ago'}"
        for name, age_s in sorted(facts.scope_age_s.items())
    ]
    found = f"last listed: {', '.join(ages)}"
    if all(age_s is not None and age_s <= late_s for age_s in facts.scope_age_s.values()):
        return ok("reconcile", found)
    fix = "a worker lists them while nothing else is due: `reconcile_failed` in its log says more"
    return warn("reconcile", found, fix)


def _check_backlog(facts: BacklogFacts) -> Finding:
    if not facts.waiting:
        return ok("backlog", "nothing waits")
    found = (
        f"{facts.waiting} wait, {facts.due} are due, the oldest for {format_span(facts.oldest_s)}"
    )
    if facts.waiting >= facts.limit:
        fix = "more workers or quota, or raise ENRICHER_BACKLOG_LIMIT; webhooks get 503"
        return fail("backlog", f"{found}: it is full", fix)
    if facts.waiting >= facts.limit * _BACKLOG_WARN_SHARE:
        return warn("backlog", found, f"ENRICHER_BACKLOG_LIMIT is {facts.limit}")
    return ok("backlog", found)


def _check_workers(facts: BacklogFacts) -> Finding:
    if facts.leased:
        return ok("workers", f"at work on {facts.leased} deployments")
    if facts.idle_workers:
        return ok("workers", f"{facts.idle_workers} idle (clients that wait for the bell)")
    fix = "start `work`, or `run`"
    if facts.due and facts.overdue_s > _WORKER_START_S and facts.closed_s <= 0:
        found = f"nobody takes what has been due for {format_span(facts.overdue_s)}"
        return fail("workers", found, fix)
    if facts.idle_workers is None:
        return ok("workers", "cannot be told: nothing is in hand")
    return warn("workers", "none is seen", fix)


def _check_budget(facts: BacklogFacts) -> Finding:
    if facts.closed_reason == "token refused":
        fix = "set a LAUNCHDARKLY_ACCESS_TOKEN that is accepted; everything waits for it"
        return fail("budget", "closed: LaunchDarkly refuses the access token", fix)
    if facts.closed_s > 0:
        found = (
            f"closed for {format_span(facts.closed_s)} more: {facts.closed_reason or 'unknown why'}"
        )
        fix = "it opens by itself; if it closes often, lower ENRICHER_RATE_LIMIT_SHARE"
        if facts.closed_reason == "upstream failing":
            fix = "it opens by itself; see https://status.launchdarkly.com"
        return warn("budget", found, fix)
    if facts.calls_available < 1:
        return ok("budget", f"quota met, opens in {format_span(facts.opens_in_s)}")
    return ok("budget", f"open, {facts.calls_available} calls may be made now")
