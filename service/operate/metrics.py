"""What did this process do? Counted as it happens, in a registry of its own."""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from service import __version__
from service.enrich.verdict import Answer, Silence
from service.operate.labels import FAILED, POSTPONED, ROUNDS, ROUTES, Fate, Reply, name_reply

OTHER_SOURCE = "other"
PLACES = ("webhook", "claiming", "attempt", "settling")

_CALL_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ATTEMPT_S = (0.01, *_CALL_S, 60)
_WAY_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 86400)
_TRIP_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_ACTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one process. What an event needs is found by its words, made beforehand."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._workers: list[Callable[[], int]] = []
        self._webhooks: dict[tuple[str, str], Counter] = {}
        self.received = 0
        self._count_door()
        self._count_worker()
        self._count_rounds()
        self._count_upstream()
        self._count_redis()
        ProcessCollector(registry=registry)
        build = Info("enricher_build", "Which version runs", registry=registry)
        build.info({"version": __version__})

    def _count_door(self) -> None:
        self._by_source = self._count("webhooks", "Webhooks by what became of them", "source fate")
        self.time_unreadable = self._count(
            "webhooks_time_unreadable", "Webhooks queued whose time could not be read"
        )

    def _count_worker(self) -> None:
        count = self._count
        self.published = count("records_published", "Records appended to the output stream")
        self.revised = count("records_revised", "Records appended as a later revision")
        self.incomplete = count("records_incomplete", "Records appended that are not complete")
        self.unchanged = count("records_unchanged", "Deployments found with nothing new to append")
        self.left_out = count("records_left_out", "Deployments found that are not wanted")
        self.leases_lost = count("leases_lost", "Leases that ran out while work went on")
        self.handed_back = count("handed_back", "Tickets handed back by a worker that stopped")
        self.drifted = count("drifted_answers", "Answers that are JSON of another shape")
        postponed = count("postponed", "Tickets put back until later", "reason")
        self.postponed = {reason: postponed.labels(reason) for reason in POSTPONED}
        given_up = count("given_up", "Tickets given up", "reason")
        self.given_up = {reason: given_up.labels(reason) for reason in FAILED}
        crashes = count("crashes", "Mistakes of our own, by where they were caught", "place")
        self.crashes = {place: crashes.labels(place) for place in PLACES}
        self.attempt = self._measure("attempt_seconds", "Time that one attempt took", _ATTEMPT_S)
        self.way = self._measure(
            "webhook_to_record_seconds", "From a webhook's arrival to its record", _WAY_S
        )

    def _count_rounds(self) -> None:
        self.missed = self._count(
            "missed_deployments", "Deployments queued that no webhook had told of, by reconciling"
        )
        rounds = self._count("reconcile_rounds", "Times that a scope was listed", "outcome")
        self.rounds = {outcome: rounds.labels(outcome) for outcome in ROUNDS}

    def _count_upstream(self) -> None:
        calls = self._count("launchdarkly_calls", "Calls to LaunchDarkly", "route outcome")
        self._calls = {
            (route, reply): calls.labels(route, reply)
            for route, reply in product(ROUTES, get_args(Reply))
        }
        took = Histogram(
            "enricher_launchdarkly_call_seconds",
            "Time until a call was answered",
            ["route"],
            buckets=_CALL_S,
            registry=self.registry,
        )
        self._took = {route: took.labels(route) for route in ROUTES}

    def _count_redis(self) -> None:
        self.redis_lost = self._count("redis_lost", "Times that Redis was lost or refused")
        self._trip = self._measure("redis_round_trip_seconds", "Time of a round trip", _TRIP_S)
        self._acts = self._measure("redis_group_acts", "Acts that shared a round trip", _ACTS)

    def _count(self, name: str, meaning: str, labels: str = "") -> Counter:
        return Counter(f"enricher_{name}", meaning, labels.split(), registry=self.registry)

    def _measure(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"enricher_{name}", meaning, buckets=buckets, registry=self.registry)

    def limit(self, *, tickets: int, records: int) -> None:
        """Tell how much may wait, and how many records are kept at most (0: no such cap)."""
        for name, meaning, most in (
            ("backlog_limit_tickets", "Tickets that may wait", tickets),
            ("stream_limit_records", "Records kept at most; 0: no such cap", records),
        ):
            Gauge(f"enricher_{name}", meaning, registry=self.registry).set(most)

    def expect_sources(self, names: Iterable[str]) -> None:
        """Begin at zero for each source, so that its first webhook is an increase."""
        for name, fate in product((*names, OTHER_SOURCE), get_args(Fate)):
            self._webhooks[name, fate] = self._by_source.labels(name, fate)

    def count_webhook(self, source: str, fate: Fate) -> None:
        """Count one webhook, or one event of a batch."""
        counter = self._webhooks.get((source, fate))
        if counter is None:
            counter = self._webhooks[source, fate] = self._by_source.labels(source, fate)
        counter.inc()
        self.received += 1

    def watch_worker(self, count_in_hand: Callable[[], int]) -> None:
        """Tell from now on how many tickets are in hand; told by processes that work alone."""
        if not self._workers:
            meaning = "Tickets that this process works on; told by workers alone"
            gauge = Gauge("enricher_tickets_in_hand", meaning, registry=self.registry)
            gauge.set_function(lambda: sum(count() for count in self._workers))
        self._workers.append(count_in_hand)

    def note_call(self, route: str, answer: Answer | Silence, took_s: float) -> None:
        """Count one call to LaunchDarkly."""
        self._calls[route, name_reply(answer)].inc()
        self._took[route].observe(took_s)

    def note_drift(self) -> None:
        """Count an answer of a shape that we do not know."""
        self.drifted.inc()

    def note_round_trip(self, acts: int, took_s: float) -> None:
        """Count one round trip to Redis."""
        self._acts.observe(acts)
        self._trip.observe(took_s)
