"""Does work go on? Judged from what waits, what has failed, and who is there to do it."""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from service.operate.doctor.finding import Finding, find_odd, find_well, find_wrong, write_span

_NEARLY_FULL = 0.8
_STARTING_S = 10.0
_LATE_ROUNDS = 3


class WaitingFacts(Struct, frozen=True, kw_only=True):
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
    listening: int | None = None
    failed_total: int = 0
    failed: Mapping[str, int] = {}
    closed_s: float = 0.0
    why: str = ""
    room: int = 0
    opens_s: float = 0.0
    unseen_s: Mapping[str, float] = {}
    dead_after_s: float = 604_800.0
    listed_s: Mapping[str, float | None] = {}
    listed_every_s: float = 600.0

    @property
    def may_call(self) -> bool:
        """Tell whether one more call takes nothing that others wait for."""
        if self.closed_s > 0:
            return self.why != "rate limited"
        return self.room >= 1


def judge_waiting(facts: WaitingFacts) -> Iterator[Finding]:
    """Judge backlog, workers, budget and failures."""
    yield _judge_backlog(facts)
    yield _judge_workers(facts)
    yield _judge_budget(facts)
    yield _judge_readers(facts)
    if facts.listed_s:
        yield _judge_rounds(facts)
    if not facts.failed_total:
        yield find_well("failed", "none")
        return
    counts = sorted(facts.failed.items(), key=lambda pair: (-pair[1], pair[0]))
    told = ", ".join(f"{count} {reason}" for reason, count in counts)
    if sum(facts.failed.values()) < facts.failed_total:
        told = f"of the newest {told}"
    fix = "`failed list` and `failed show` tell why, `failed retry` takes them up again"
    yield find_odd("failed", f"{facts.failed_total}: {told}", fix)


def _judge_readers(facts: WaitingFacts) -> Finding:
    dead = {name: s for name, s in facts.unseen_s.items() if s >= facts.dead_after_s}
    if not dead:
        told = ", ".join(sorted(facts.unseen_s)) or "no group reads the stream"
        return find_well("readers", told)
    told = ", ".join(f"{name} was not seen for {write_span(s)}" for name, s in sorted(dead.items()))
    fix = "start its readers, or remove it: XGROUP DESTROY; what it has not read is trimmed by age"
    return find_odd("readers", told, fix)


def _judge_rounds(facts: WaitingFacts) -> Finding:
    late_s = _LATE_ROUNDS * facts.listed_every_s
    told = [
        f"{name} {'never' if s is None else write_span(s) + ' ago'}"
        for name, s in sorted(facts.listed_s.items())
    ]
    text = f"last listed: {', '.join(told)}"
    if all(s is not None and s <= late_s for s in facts.listed_s.values()):
        return find_well("reconcile", text)
    fix = "a worker lists them while nothing else is due: `reconciling_failed` in its log says more"
    return find_odd("reconcile", text, fix)


def _judge_backlog(facts: WaitingFacts) -> Finding:
    if not facts.waiting:
        return find_well("backlog", "nothing waits")
    told = f"{facts.waiting} wait, {facts.due} are due, the oldest for {write_span(facts.oldest_s)}"
    if facts.waiting >= facts.limit:
        fix = "more workers or quota, or raise ENRICHER_BACKLOG_LIMIT; webhooks get 503"
        return find_wrong("backlog", f"{told}: it is full", fix)
    if facts.waiting >= facts.limit * _NEARLY_FULL:
        return find_odd("backlog", told, f"ENRICHER_BACKLOG_LIMIT is {facts.limit}")
    return find_well("backlog", told)


def _judge_workers(facts: WaitingFacts) -> Finding:
    if facts.leased:
        return find_well("workers", f"at work on {facts.leased} deployments")
    if facts.listening:
        return find_well("workers", f"{facts.listening} idle (clients that wait for the bell)")
    fix = "start `work`, or `run`"
    if facts.due and facts.overdue_s > _STARTING_S and facts.closed_s <= 0:
        told = f"nobody takes what has been due for {write_span(facts.overdue_s)}"
        return find_wrong("workers", told, fix)
    if facts.listening is None:
        return find_well("workers", "cannot be told: nothing is in hand")
    return find_odd("workers", "none is seen", fix)


def _judge_budget(facts: WaitingFacts) -> Finding:
    if facts.why == "token refused":
        fix = "set a LAUNCHDARKLY_ACCESS_TOKEN that is accepted; everything waits for it"
        return find_wrong("budget", "closed: LaunchDarkly refuses the access token", fix)
    if facts.closed_s > 0:
        told = f"closed for {write_span(facts.closed_s)} more: {facts.why or 'unknown why'}"
        fix = "it opens by itself; if it closes often, lower ENRICHER_RATE_SHARE"
        if facts.why == "upstream failing":
            fix = "it opens by itself; see https://status.launchdarkly.com"
        return find_odd("budget", told, fix)
    if facts.room < 1:
        return find_well("budget", f"quota met, opens in {write_span(facts.opens_s)}")
    return find_well("budget", f"open, {facts.room} calls may be made now")
