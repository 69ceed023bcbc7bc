"""Do the benchmarks still run? Every kind once, with few items; no time is asserted."""

import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.bench.bench_env import BenchEnvironment, open_bench_environment
from tests.bench.contestants import build_baseline, build_ours
from tests.bench.depth import BATCH, BATCHES
from tests.bench.paths import ROOT
from tests.bench.peer_catalog import Peers
from tests.bench.peer_environments import LOCKS
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
from tests.bench.spread import Spread, check_goal, compare_rounds, measure_spread

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it reads /proc")

NO_PEERS = Peers((), (), {"arq": "it could not be installed"})
SHORT_CONFIG = BenchConfig(rounds=1, items=20, peers=NO_PEERS, deep_backlog=BATCH * BATCHES)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[BenchEnvironment]:
    """Start what every measurement stands on."""
    async with open_bench_environment(tmp_path) as opened:
        yield opened


async def test_a_record_is_measured_and_looked_at(stand: BenchEnvironment) -> None:
    """Ours with and without ids, the bare loop and the GET do the work that they are told."""
    contestants = [
        build_ours(),
        build_ours(without_ids=True),
        build_baseline("record"),
        build_baseline("get"),
    ]
    samples, broken = await measure_rounds(stand, contestants, [0], items=20)
    assert broken == {}
    assert [len(taken) for taken in samples.values()] == [1, 1, 1, 1]


async def test_work_left_out_is_noticed(stand: BenchEnvironment) -> None:
    """Whoever appends less than was asked for is not measured."""
    samples, _ = await measure_rounds(stand, [build_baseline("record")], [0], items=20)
    assert samples
    with pytest.raises(WrongOutput, match="left 1 records out"):
        await check_output(stand, build_baseline("record"), 321)


async def test_a_contestant_that_breaks_is_told(stand: BenchEnvironment) -> None:
    """A program that ends by itself becomes a line of the table, with the reason."""
    bare = build_baseline("record")
    broken = type(bare)(
        name="gone",
        command=("-c", "raise SystemExit('no such queue')"),
        ready_text="ready",
        fill=bare.fill,
    )
    samples, errors = await measure_rounds(stand, [bare, broken], [0], items=20)
    assert "| gone | 0 | - |  |  | ProcessExited: no such queue |" in format_costs(
        samples, errors, {}
    )


async def test_a_receiver_is_measured(stand: BenchEnvironment) -> None:
    """Ours and the one that only reads accept every webhook."""
    table = await report_receiver(stand, SHORT_CONFIG)
    assert table.count("\n| ") == 4
    assert "| only reads | " in table


async def test_latency_is_measured(stand: BenchEnvironment) -> None:
    """Every shot becomes a record, ours and the script's."""
    assert "| p99 | " in await report_latency(stand, SHORT_CONFIG)


async def test_a_backlog_is_measured_at_two_depths(stand: BenchEnvironment) -> None:
    """Claiming and settling go on at both, and a ticket is weighed."""
    table = await report_depth(stand, SHORT_CONFIG)
    assert "| the ticket | " in table


async def test_two_workers_are_measured(stand: BenchEnvironment) -> None:
    """Both empty the one backlog."""
    pace = await measure_throughput(stand, workers=2, items=20)
    assert pace.per_s > 0


def test_a_verdict_is_given_only_where_the_spread_carries_it() -> None:
    """A goal inside the middle half is neither met nor missed."""
    ratio = compare_rounds([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert ratio == Spread(1.5, 2.0, 2.5)
    assert [check_goal(ratio, goal) for goal in (1.0, 2.0, 3.0)] == [
        "not met",
        "within the spread",
        "met",
    ]
    assert measure_spread([4.0]) == Spread(4.0, 4.0, 4.0)


def test_who_could_not_be_installed_is_told() -> None:
    """A peer that is not there is a line of the table, and not left out."""
    table = format_costs({"ours": [1.0]}, NO_PEERS.unavailable, {})
    assert "| arq | 0 | - |  |  | it could not be installed |" in table


def test_who_broke_before_anybody_could_be_compared_is_told() -> None:
    """Not even our own breaking costs the table."""
    table = format_costs({"ours": [1.0], "theirs": [2.0, 2.0]}, {"ours": "gone"}, {"theirs": 1.0})
    assert "| ours | 0 | - |  |  | gone |" in table
    assert "| theirs | 2 | 2.000 (2.000 … 2.000) |  |  |  |" in table


def test_rounds_end_when_their_time_is_up() -> None:
    """As many as asked for, or the fewest that say anything when there is no time at all."""
    assert [*iterate_rounds(5, 60)] == [0, 1, 2, 3, 4]
    assert [*iterate_rounds(5, 0)] == [0, 1, 2]


@pytest.mark.parametrize(("group", "lock"), LOCKS.items())
def test_a_lock_holds_what_its_peers_ask_for(group: str, lock: Path) -> None:
    """A peer added to pyproject.toml without `run.py lock` is noticed."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"][group]
    names = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in requirements}
    assert names <= parse_pins(lock).keys()


def test_both_sides_share_their_clients() -> None:
    """Whatever we and the peers both use is of one version; only arq wants an older redis-py."""
    ours = parse_pins(ROOT / "tests" / "requirements.lock")
    differing = {
        name
        for lock in LOCKS.values()
        for name, version in parse_pins(lock).items()
        if ours.get(name, version) != version
    }
    assert differing <= {"redis"}


def parse_pins(lock: Path) -> dict[str, str]:
    """Read the versions that a lock pins."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE))
