"""Does work go on? Judged from what waits, what has failed, and who is there to do it."""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from service.operate.doctor.finding import Finding, fail, format_span, ok, warn

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
    fix = "a worker lists them while nothing else is due: `reconciling_failed` in its log says more"
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
        fix = "it opens by itself; if it closes often, lower ENRICHER_RATE_SHARE"
        if facts.closed_reason == "upstream failing":
            fix = "it opens by itself; see https://status.launchdarkly.com"
        return warn("budget", found, fix)
    if facts.calls_available < 1:
        return ok("budget", f"quota met, opens in {format_span(facts.opens_in_s)}")
    return ok("budget", f"open, {facts.calls_available} calls may be made now")
