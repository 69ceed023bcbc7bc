"""Tests of ``change``: what the script computes equals a plain oracle, for generated histories.

Hypothesis makes deployments of one application that end in any order, fail, run again and are
rolled back. Workers publish them repeatedly, lose replies, and are killed between any two steps.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from redis.asyncio import Redis

from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.ticket import Lease
from service.enrich.budget import load_budget_prelude
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Found
from service.publish.entry import Entry, EntryBuilder
from service.publish.stream import OutputStream, RetentionConfig
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from service.store.keys import Keys
from tests.factories import make_event
from tests.publish.change_oracle import EndedDeployment, expected_changes

START_MS = 1_795_428_000_000
TTL_MS = 600_000


class Report(Struct, frozen=True):
    """One report of a deployment.

    ``killed`` is how many workers are killed after they leased its ticket, and ``repeats`` how
    often the reply to the next one is lost.
    """

    deployment: EndedDeployment
    repeats: int = 0
    killed: int = 0


class History:
    """One namespace in which the deployments of one application are published."""

    def __init__(self, redis: Redis, group: GroupCommit, keys: Keys) -> None:
        tokens, self._deliveries = itertools.count(), itertools.count()
        config = BacklogConfig(
            lease_ms=TTL_MS,
            delivery_ttl_ms=TTL_MS,
            failed_ttl_ms=TTL_MS,
            call_ttl_ms=TTL_MS,
            max_tickets=1000,
            rate_limit_share=1.0,
        )
        self.redis, self.keys = redis, keys
        self.backlog = Backlog(
            group,
            keys=keys,
            config=config,
            budget_lua=load_budget_prelude(),
            new_token=lambda: f"{next(tokens):016d}",
        )
        self.output = OutputStream(
            group, keys=keys, retention=RetentionConfig(dedup_ttl_ms=TTL_MS, max_age_ms=TTL_MS)
        )

    async def publish(self, report: Report, *, is_shared: bool = False, **fields: Any) -> str:
        """Queue, claim and publish a deployment as a worker does; return the status."""
        deployment = report.deployment
        event = make_event(
            delivery=f"d{next(self._deliveries)}",
            deployment_id=deployment.id,
            outcome=deployment.outcome,
            version=None,
        )
        await self.backlog.add(event)
        lost_leases = []
        for _ in range(report.killed):
            lost_leases.append(await self._claim())
            await self.redis.zadd(self.keys.backlog, {lost_leases[-1].job: 1000.5})
        lease = await self._claim()
        entry = replace(build_entry(deployment, lease, **fields), is_shared=is_shared)
        results = [
            await self.output.append_and_settle(entry, lease) for _ in range(report.repeats + 1)
        ]
        assert {*results} == {results[0]}
        for lost in lost_leases:  # what these workers sent arrives after all
            assert (await self.output.append_and_settle(entry, lost)).status == "lease_lost"
        return results[0].status

    async def _claim(self) -> Lease:
        (lease,) = (await self.backlog.claim(1)).leases
        assert isinstance(lease, Lease)
        return lease

    async def read_changes(self) -> dict[str, Any]:
        """Return the change of the last revision of each deployment."""
        entries: Any = await self.redis.xrange(self.keys.enriched)
        return {
            fields[b"subject"].decode(): json.loads(fields[b"data"])["change"]
            for _, fields in entries
        }


def build_entry(deployment: EndedDeployment, lease: Lease, **fields: Any) -> Entry:
    """Return the entry of a deployment; ``fields`` are further ones of LaunchDarkly."""
    body = json.dumps(
        {
            "id": deployment.id,
            "applicationKey": "shop",
            "environmentKey": "production",
            "applicationVersion": deployment.version,
            "endedAt": deployment.ended_at,
            "status": "finished",
            **fields,
        }
    ).encode()
    parsed = parse_deployment(body)
    assert isinstance(parsed, Deployment)
    entry = EntryBuilder().build(Found(deployment=parsed, chunks=(body,)), lease, now_ms=lease.now)
    assert isinstance(entry, Entry)
    return entry


@pytest.fixture
async def history(redis: Redis, group_commit: GroupCommit, keys: Keys) -> History:
    """Return the history of one namespace."""
    return History(redis, group_commit, keys)


def deployments_of(*versions: str, first_ms: int = START_MS) -> list[EndedDeployment]:
    """Return deployments that end a second after one another; ``!`` after a version: it failed."""
    return [
        EndedDeployment(
            id=f"d{number}",
            version=version.removesuffix("!"),
            ended_at=first_ms + number * 1000,
            outcome="failed" if version.endswith("!") else "succeeded",
        )
        for number, version in enumerate(versions)
    ]


async def publish_all(history: History, deployments: Sequence[EndedDeployment]) -> None:
    """Publish deployments one after the other."""
    for deployment in deployments:
        await history.publish(Report(deployment))


@pytest.mark.parametrize(
    ("versions", "redeployment", "rollback", "failed"),
    [
        pytest.param(["1"], False, False, None, id="the first"),
        pytest.param(["1", "2"], False, False, None, id="a new version"),
        pytest.param(["1", "1"], True, False, None, id="the same version"),
        pytest.param(["1", "2", "1"], False, True, "d1", id="rolled back"),
        pytest.param(["1", "2!", "3"], False, False, "d1", id="fixed forward"),
        pytest.param(["1", "2!", "2"], True, False, "d1", id="run again"),
        pytest.param(["1", "2!", "3!", "4"], False, False, "d1", id="failed twice in a row"),
        pytest.param(["1", "2!", "1"], False, True, "d1", id="rolled back from a failure"),
        pytest.param(["1", "2", "1!"], False, True, None, id="a rollback that failed"),
        pytest.param(["1!", "2", "1"], False, False, None, id="a version that never ran"),
        pytest.param(["1", "1!", "1!"], True, False, None, id="still failing"),
    ],
)
async def test_change_as_documented(
    history: History,
    versions: list[str],
    *,
    redeployment: bool,
    rollback: bool,
    failed: str | None,
) -> None:
    """Each line of the table in docs/consumers.md, about the last of the deployments."""
    deployments = deployments_of(*versions)
    await publish_all(history, deployments)
    change = (await history.read_changes())[deployments[-1].id]
    assert (change["redeployment"], change["rollback"]) == (redeployment, rollback)
    assert (change["recovery"] or {}).get("failedDeploymentId") == failed
    assert change == expected_changes(deployments)[deployments[-1].id]


@pytest.mark.parametrize(("versions_between", "rollback"), [(24, True), (25, False)])
async def test_rollback_looks_at_the_25_deployments_before(
    history: History, versions_between: int, *, rollback: bool
) -> None:
    """A version that ran longer ago counts as new."""
    between = (f"v{number}" for number in range(versions_between))
    deployments = deployments_of("1", *between, "1")
    await publish_all(history, deployments)
    change = (await history.read_changes())[deployments[-1].id]
    assert change["rollback"] == rollback
    assert change == expected_changes(deployments)[deployments[-1].id]


async def test_late_deployment_corrects_later_ones_by_their_next_refresh(history: History) -> None:
    """The content is the same, so only the change makes a revision; the next one makes none."""
    first, late, last = deployments_of("1", "2!", "3")
    await publish_all(history, [first, last, late])
    assert (await history.read_changes())["d2"]["previous"]["deploymentId"] == "d0"
    assert await history.publish(Report(last)) == "published"
    assert await history.read_changes() == expected_changes([first, late, last])
    assert await history.publish(Report(last)) == "unchanged"
    assert await history.publish(Report(first)) == "unchanged"


async def test_later_deployment_makes_no_revision_of_earlier_ones(history: History) -> None:
    """What comes after a deployment is none of its change."""
    deployments = deployments_of("1", "2", "3")
    await publish_all(history, deployments)
    for deployment in deployments:
        assert await history.publish(Report(deployment)) == "unchanged"


async def test_unfinished_filtered_and_endless_deployments_take_no_part(history: History) -> None:
    """Their change is null, and no other deployment has them before it."""
    first, second, third, fourth = deployments_of("1", "2", "3", "4")
    await history.publish(Report(first))
    await history.publish(Report(second), status="started", endedAt=None)
    await history.publish(Report(third), endedAt=None)
    await history.publish(Report(fourth))
    changes = await history.read_changes()
    assert (changes["d1"], changes["d2"]) == (None, None)
    assert changes["d3"]["previous"]["deploymentId"] == "d0"
    await history.publish(Report(second))
    await history.publish(Report(fourth))
    changes = await history.read_changes()
    assert changes["d3"]["previous"]["deploymentId"] == "d1"


async def test_unknown_versions_are_no_redeployment(history: History) -> None:
    """Nobody knows whether two unknown versions are the same."""
    deployments = [
        EndedDeployment(id=f"d{number}", version=None, ended_at=START_MS + number, outcome="failed")
        for number in range(3)
    ]
    await publish_all(history, deployments)
    assert await history.read_changes() == expected_changes(deployments)


@pytest.mark.parametrize("field", ["id", "version"])
async def test_long_texts_take_no_part(history: History, field: str) -> None:
    """The history of an application is bounded in bytes: 256 of an id or a version."""
    first, second, third = deployments_of("1", "2", "3")
    await publish_all(history, [first, replace(second, **{field: "v" * 257}), third])
    changes = await history.read_changes()
    assert [*changes.values()][1] is None
    assert changes["d2"]["previous"]["deploymentId"] == "d0"


async def test_shared_event_does_not_hide_a_correction(history: History) -> None:
    """It makes no record, so the refresh after it finds the other change and does."""
    first, late, last = deployments_of("1", "2", "3")
    await publish_all(history, [first, last, late])
    assert await history.publish(Report(last), is_shared=True) == "unchanged"
    assert await history.publish(Report(last)) == "published"


async def test_each_application_and_environment_has_its_own_history(history: History) -> None:
    """The key of each is made of parts that cannot run into one another."""
    deployments = deployments_of("1", "2", "3")
    for deployment, (environment, application) in zip(
        deployments, [("a/b", "c"), ("a", "b/c"), ("a", "c")], strict=True
    ):
        await history.publish(
            Report(deployment), environmentKey=environment, applicationKey=application
        )
    changes = await history.read_changes()
    assert {change["previous"] for change in changes.values()} == {None}


async def test_history_is_bounded_and_a_change_is_final_after_25_later_ones(
    history: History,
) -> None:
    """Of 230 deployments 64 are kept; a refresh of a long past one makes no revision."""
    versions = [f"{number % 40}" for number in range(230)]
    deployments = deployments_of(*versions)
    await publish_all(history, deployments)
    key = history.keys.history("default", "production", "shop")
    assert 51 <= await history.redis.llen(key) <= 64
    assert await history.redis.pttl(key) > TTL_MS / 2
    changes = await history.read_changes()
    assert changes["d229"] == expected_changes(deployments)["d229"]
    assert await history.publish(Report(deployments[10])) == "unchanged"
    assert await history.publish(Report(deployments[10]), novel=1) == "published"
    assert (await history.read_changes())["d10"] is None
    late = EndedDeployment(id="late", version="9", ended_at=START_MS + 228_500, outcome="failed")
    await publish_all(history, [late, deployments[229]])
    corrected = expected_changes([*deployments, late])
    changes = await history.read_changes()
    assert (changes["late"], changes["d229"]) == (corrected["late"], corrected["d229"])


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
VERSIONS = st.sampled_from(["1", "2", "3", "v4", "10", "20"]) | TEXTS


@st.composite
def reports(draw: st.DrawFn) -> list[Report]:
    """Return reports of up to 24 deployments: late, repeated, corrected, with lost replies."""
    ids = draw(st.lists(TEXTS, min_size=1, max_size=24, unique=True))
    times = st.integers(min_value=1, max_value=40)

    def report_of(deployment_id: str) -> Report:
        deployment = EndedDeployment(
            id=deployment_id,
            version=draw(VERSIONS),
            ended_at=START_MS + draw(times),
            outcome=draw(st.sampled_from(["succeeded", "succeeded", "failed"])),
        )
        counts = st.sampled_from([0, 0, 0, 0, 1, 2])
        return Report(deployment, repeats=draw(counts), killed=draw(counts))

    first = [report_of(deployment_id) for deployment_id in ids]
    again = [report_of(deployment_id) for deployment_id in draw(st.lists(st.sampled_from(ids)))]
    return [*first, *again]


class Runner:
    """Runs each generated history in a namespace of its own, on one event loop."""

    def __init__(self, redis_url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count()
        self._client = open_client(redis_url)
        self._group: GroupCommit | None = None

    def check(self, history_reports: Sequence[Report]) -> None:
        """Publish all, refresh each deployment once, and compare with the oracle."""
        self._loop.run_until_complete(self._check(history_reports))

    async def _check(self, history_reports: Sequence[Report]) -> None:
        if self._group is None:
            self._group = GroupCommit(
                self._client, durability="memory", clock=time.monotonic, log=structlog.get_logger()
            )
        keys = Keys(f"change{next(self._numbers)}")
        history = History(self._client, self._group, keys)
        for report in history_reports:
            await history.publish(report)
        last = {report.deployment.id: report.deployment for report in history_reports}
        for deployment in last.values():
            await history.publish(Report(deployment))
        assert await history.read_changes() == expected_changes(last.values())
        for deployment in last.values():
            assert await history.publish(Report(deployment)) == "unchanged"
        names = await self._client.keys(f"{{{keys.namespace}}}:*")
        await self._client.delete(*names)

    def close(self) -> None:
        """Close the connection and the loop."""
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _close(self) -> None:
        if self._group is not None:
            await self._group.aclose()
        await self._client.aclose()


@pytest.fixture
def runner(redis_url: str) -> Iterator[Runner]:
    """Yield what runs generated histories."""
    running = Runner(redis_url)
    yield running
    running.close()


EQUAL_ENDS = [
    Report(EndedDeployment(id=id_, version=id_, ended_at=START_MS, outcome="succeeded"))
    for id_ in ("b", "ab", "a", "c")
]

SETTINGS = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[*HealthCheck],
)


@given(history_reports=reports())
@example(history_reports=EQUAL_ENDS)
@settings(SETTINGS, max_examples=15)
def test_change_of_generated_histories_equals_the_oracle(
    runner: Runner, history_reports: list[Report]
) -> None:
    """After one refresh of each deployment, and no second one makes a revision."""
    runner.check(history_reports)


@pytest.mark.long
@pytest.mark.timeout(3600)
@given(history_reports=reports())
@settings(SETTINGS, max_examples=10_000)
def test_change_of_10000_generated_histories_equals_the_oracle(
    runner: Runner, history_reports: list[Report]
) -> None:
    """As above, 10,000 times."""
    runner.check(history_reports)
