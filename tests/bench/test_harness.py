"""Tests of the benchmarks: every kind runs once with few items. No time is asserted."""

import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from tests.bench.bench_env import BenchEnvironment, open_bench_environment
from tests.bench.contestants import (
    build_baseline,
    build_content_floor,
    build_floor,
    build_service,
)
from tests.bench.depth import BATCH, BATCHES
from tests.bench.paths import ROOT
from tests.bench.peer_catalog import Peers
from tests.bench.records import WrongOutput, check_output, measure_rounds
from tests.bench.reports import (
    BenchConfig,
    format_costs,
    report_depth,
    report_latency,
    report_receiver,
)
from tests.bench.rounds import iterate_rounds
from tests.bench.scaling import measure_throughput
from tests.bench.script_times import Depths, measure_scripts
from tests.bench.server_cost import ServerCost, format_server_costs
from tests.bench.spread import Spread, check_goal, compare_rounds, measure_spread
from tests.bench.summary import compare_with, compare_with_cheapest, format_summary
from tests.bench.worker_memory import measure_large_responses
from tests.environments import LOCKS

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

NO_PEERS = Peers((), (), {"arq": "could not be installed"})
SHORT_CONFIG = BenchConfig(rounds=1, items=20, peers=NO_PEERS, deep_backlog=BATCH * BATCHES)


@pytest.fixture
async def bench_env(tmp_path: Path) -> AsyncIterator[BenchEnvironment]:
    """Start the environment of the measurements."""
    async with open_bench_environment(tmp_path) as env:
        yield env


async def test_record_is_measured_and_checked(bench_env: BenchEnvironment) -> None:
    """The service and its floor with and without ids, and the baselines, do their work."""
    contestants = [
        build_service(),
        build_service(without_ids=True),
        build_baseline("record"),
        build_baseline("get"),
        build_floor(),
        build_content_floor(),
        replace(build_content_floor(without_ids=True), name="content floor, no ids"),
    ]
    samples, errors = await measure_rounds(bench_env, contestants, [0], items=20)
    assert errors == {}
    assert [len(values) for values in samples.values()] == [1] * len(contestants)


async def test_missing_output_is_an_error(bench_env: BenchEnvironment) -> None:
    """A contestant that appends less than it should is not measured."""
    samples, _ = await measure_rounds(bench_env, [build_baseline("record")], [0], items=20)
    assert samples
    with pytest.raises(WrongOutput, match="appended 1 records too few"):
        await check_output(bench_env, build_baseline("record"), 321)


async def test_failing_contestant_is_reported(bench_env: BenchEnvironment) -> None:
    """A program that exits becomes a row of the table with its reason."""
    bare = build_baseline("record")
    failing = type(bare)(
        name="gone",
        command=("-c", "raise SystemExit('no such queue')"),
        ready_text="ready",
        fill=bare.fill,
    )
    samples, errors = await measure_rounds(bench_env, [bare, failing], [0], items=20)
    assert "| gone | 0 | - |  |  | ProcessExited: no such queue |" in format_costs(
        samples, errors, {}
    )


async def test_receiver_is_measured(bench_env: BenchEnvironment) -> None:
    """The service, the receiver that only reads, and both floors accept every webhook."""
    report = await report_receiver(bench_env, SHORT_CONFIG)
    assert report.text.count("\n| ") == 12  # costs, and costs of Redis
    assert "| only reads | " in report.text
    assert "| floor | " in report.text
    assert "| content floor | " in report.text
    assert all(comparison.value.low > 0 for comparison in report.comparisons)


async def test_latency_is_measured(bench_env: BenchEnvironment) -> None:
    """Every trigger of the service and of the script makes a record."""
    assert "| p99 | " in (await report_latency(bench_env, SHORT_CONFIG)).text


async def test_backlog_is_measured_at_two_depths(bench_env: BenchEnvironment) -> None:
    """Claims and settlements work at both depths, and the memory of a ticket is measured."""
    report = await report_depth(bench_env, SHORT_CONFIG)
    assert "| one ticket | " in report.text


async def test_two_workers_are_measured(bench_env: BenchEnvironment) -> None:
    """Both workers drain the same backlog."""
    throughput = await measure_throughput(bench_env, workers=2, items=20)
    assert throughput.per_s > 0


def test_goal_within_the_spread_is_undecided() -> None:
    """A goal between the quartiles is neither met nor missed."""
    ratio = compare_rounds([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert ratio == Spread(1.5, 2.0, 2.5)
    assert [check_goal(ratio, goal) for goal in (1.0, 2.0, 3.0)] == [
        "not met",
        "within the spread",
        "met",
    ]
    assert measure_spread([4.0]) == Spread(4.0, 4.0, 4.0)


def test_summary_compares_with_the_cheapest() -> None:
    """It has the ratio of paired rounds, the goal, and whether it is met."""
    samples = {"service": [1.0, 2.0], "slow": [9.0, 9.0], "fast": [2.0, 4.0], "gone": []}
    names = ("slow", "fast", "gone")
    (comparison,) = compare_with_cheapest(samples, names, what="record", beside="queue", goal=0.6)
    table = format_summary([comparison], loop="uvloop")
    assert "| record | queue: fast | 0.50 (0.50 … 0.50) | <= 0.60 | met |" in table
    assert compare_with_cheapest({"service": []}, ["fast"], what="", beside="", goal=1) == ()
    assert compare_with(samples, "gone", what="", beside="", goal=1) == ()


async def test_longest_block_of_the_loop_is_measured(bench_env: BenchEnvironment) -> None:
    """It is read from a worker that received a response of 25 MB."""
    cost = await measure_large_responses(bench_env, count=1)
    assert cost.record_mb > 20
    assert cost.blocked_ms > 0


def test_unavailable_peer_is_reported() -> None:
    """A peer that could not be installed is a row of the table."""
    table = format_costs({"service": [1.0]}, NO_PEERS.unavailable, {})
    assert "| arq | 0 | - |  |  | could not be installed |" in table


def test_failing_service_keeps_the_table() -> None:
    """The table lists all contestants even when the service itself failed."""
    table = format_costs({"service": [1.0], "peer": [2.0, 2.0]}, {"service": "gone"}, {"peer": 1.0})
    assert "| service | 0 | - |  |  | gone |" in table
    assert "| peer | 2 | 2.000 (2.000 … 2.000) |  |  |  |" in table


def test_rounds_end_at_the_time_limit() -> None:
    """All configured rounds run, or the minimum when there is no time."""
    assert [*iterate_rounds(5, 60)] == [0, 1, 2, 3, 4]
    assert [*iterate_rounds(5, 0)] == [0, 1, 2]


@pytest.mark.parametrize(("group", "lock"), LOCKS.items())
def test_lock_contains_every_peer(group: str, lock: Path) -> None:
    """A peer in pyproject.toml without `run.py lock` is found."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"][group]
    names = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in requirements}
    assert names <= parse_pins(lock).keys()


def test_service_and_peers_share_client_versions() -> None:
    """Common packages have equal versions; only arq needs an older redis-py."""
    service_pins = parse_pins(ROOT / "tests" / "requirements.lock")
    differing = {
        name
        for lock in LOCKS.values()
        for name, version in parse_pins(lock).items()
        if service_pins.get(name, version) != version
    }
    assert differing <= {"redis"}


def parse_pins(lock: Path) -> dict[str, str]:
    """Return the pinned versions of a lock."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE))


async def test_script_times_cover_every_script_of_the_service(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    """A script that is not measured could block Redis for long."""
    async with open_client(server.url) as redis:
        env = BenchEnvironment(tmp_path, server.url, redis)
        held = Depths(tickets=400, entries=200, groups=2, failed=200, refreshes=10)
        measured = await measure_scripts(env, held, rounds=1)
    scripts = {
        path.stem
        for path in (ROOT / "service").rglob("lua/*.lua")
        if not path.stem.startswith("lib_")
    }
    # Few tickets need these, and none of them depends on a depth: each changes one ticket at most.
    assert scripts - {script.name for script in measured} == {
        "end_start",
        "end_wait",
        "script_probe",
        "skip_refresh",
        "write_report",
    }


def test_format_server_costs_shows_calls_and_time() -> None:
    """Each contestant has a row."""
    table = format_server_costs({"service": [ServerCost(1.0, 20.0)]})
    assert "| service | 1.00 (1.00 … 1.00) | 20.0 (20.0 … 20.0) |" in table
