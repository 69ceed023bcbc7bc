"""How do facts become numbers? Each is written down as before, and counted by its name."""

from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any

from prometheus_client import Counter

from service.log import FactLog
from service.operate.labels import Fate, name_delay, name_failure
from service.operate.metrics import OTHER_SOURCE, Metrics

Facts = Mapping[str, Any]
Count = Callable[[Facts], None]


class CountingLog:
    """A log whose facts are counted: what is said and what is counted cannot differ."""

    def __init__(self, log: FactLog, counts: Mapping[str, Count]) -> None:
        self._log = log
        self._counts = counts

    def _count(self, event: str, facts: Facts) -> None:
        count = self._counts.get(event)
        if count is not None:
            count(facts)

    def info(self, event: str, **facts: object) -> None:
        """Count and write one fact."""
        self._count(event, facts)
        self._log.info(event, **facts)

    def warning(self, event: str, **facts: object) -> None:
        """Count and write a fact that somebody should look at."""
        self._count(event, facts)
        self._log.warning(event, **facts)

    def error(self, event: str, **facts: object) -> None:
        """Count and write that something is wrong."""
        self._count(event, facts)
        self._log.error(event, **facts)

    def exception(self, event: str, **facts: object) -> None:
        """Count and write that our own code failed, with the exception being handled."""
        self._count(event, facts)
        self._log.exception(event, **facts)


def count_webhooks(metrics: Metrics, sources: Container[str]) -> dict[str, Count]:
    """Give what the door's facts add to. A name that is no source's is not repeated."""

    def count(fate: Fate, facts: Facts) -> None:
        source = facts["source"]
        metrics.count_webhook(source if source in sources else OTHER_SOURCE, fate)
        if "time_unreadable" in facts:
            metrics.time_unreadable.inc()

    def crash(_: Facts) -> None:
        metrics.crashes["webhook"].inc()

    fates: tuple[Fate, ...] = ("queued", "duplicate", "ignored", "rejected", "set_aside", "refused")
    return {f"webhook_{fate}": partial(count, fate) for fate in fates} | {"webhook_crashed": crash}


def _time_way(metrics: Metrics, facts: Facts) -> None:
    """Observe how long a webhook took; a later look says nothing of that."""
    if "since_webhook_ms" in facts:
        metrics.way.observe(facts["since_webhook_ms"] / 1000)


def count_attempts(metrics: Metrics) -> dict[str, Count]:
    """Give what a worker's facts add to."""

    def publish(facts: Facts) -> None:
        metrics.published.inc()
        if facts["revision"] > 1:
            metrics.revised.inc()
        if not facts["complete"]:
            metrics.incomplete.inc()
        _time_way(metrics, facts)
        metrics.attempt.observe(facts["took_ms"] / 1000)

    def end(ended: Counter, facts: Facts) -> None:
        ended.inc()
        metrics.attempt.observe(facts["took_ms"] / 1000)

    def postpone(facts: Facts) -> None:
        metrics.postponed[name_delay(facts["reason"])].inc()
        metrics.attempt.observe(facts["took_ms"] / 1000)

    def give_up(facts: Facts) -> None:
        metrics.given_up[name_failure(facts["reason"])].inc()
        metrics.attempt.observe(facts["took_ms"] / 1000)

    def bury(_: Facts) -> None:
        metrics.given_up["unreadable_ticket"].inc()

    return {
        "deployment_published": publish,
        "deployment_unchanged": partial(end, metrics.unchanged),
        "deployment_left_out": partial(end, metrics.left_out),
        "deployment_postponed": postpone,
        "deployment_given_up": give_up,
        "ticket_unreadable": bury,
        "lease_lost": lambda _: metrics.leases_lost.inc(),
        "deployment_handed_back": lambda _: metrics.handed_back.inc(),
        "claiming_failed": lambda _: metrics.crashes["claiming"].inc(),
        "attempt_crashed": lambda _: metrics.crashes["attempt"].inc(),
        "settling_failed": lambda _: metrics.crashes["settling"].inc(),
    }


def count_rounds(metrics: Metrics) -> dict[str, Count]:
    """Give what the facts of reconciling add to."""

    def end(facts: Facts) -> None:
        metrics.rounds["ended"].inc()
        metrics.missed.inc(facts["missed"])

    return {
        "deployments_reconciled": end,
        "reconciling_failed": lambda _: metrics.rounds["failed"].inc(),
        "reconciling_taken_over": lambda _: metrics.rounds["taken_over"].inc(),
    }


def count_losses(metrics: Metrics) -> dict[str, Count]:
    """Give what the facts about Redis add to."""
    return {"redis_lost": lambda _: metrics.redis_lost.inc()}
