"""Do the benchmarks still run? Every kind once, with few items; no time is asserted."""

import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.bench.contestants import make_bare, make_ours
from tests.bench.depth import BATCH, BATCHES
from tests.bench.environments import LOCKS
from tests.bench.figures import Spread, compare, judge, measure_spread
from tests.bench.places import ROOT
from tests.bench.records import WrongWork, check_work, measure_rounds
from tests.bench.reports import Plan, report_depth, report_door, report_latency, write_costs
from tests.bench.roster import Peers
from tests.bench.scaling import measure_pace
from tests.bench.stand import Stand, open_stand
from tests.bench.turns import take_turns

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it reads /proc")

ALONE = Peers((), (), {"arq": "it could not be installed"})
SHORT = Plan(rounds=1, items=20, peers=ALONE, deep=BATCH * BATCHES)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    """Start what every measurement stands on."""
    async with open_stand(tmp_path) as opened:
        yield opened


async def test_a_record_is_measured_and_looked_at(stand: Stand) -> None:
    """Ours with and without ids, the bare loop and the GET do the work that they are told."""
    contestants = [make_ours(), make_ours(listed=True), make_bare("record"), make_bare("get")]
    samples, broken = await measure_rounds(stand, contestants, [0], items=20)
    assert broken == {}
    assert [len(taken) for taken in samples.values()] == [1, 1, 1, 1]


async def test_work_left_out_is_noticed(stand: Stand) -> None:
    """Whoever appends less than was asked for is not measured."""
    samples, _ = await measure_rounds(stand, [make_bare("record")], [0], items=20)
    assert samples
    with pytest.raises(WrongWork, match="left 1 records out"):
        await check_work(stand, make_bare("record"), 321)


async def test_a_contestant_that_breaks_is_told(stand: Stand) -> None:
    """A program that ends by itself becomes a line of the table, with the reason."""
    bare = make_bare("record")
    broken = type(bare)(
        name="gone",
        words=("-c", "raise SystemExit('no such queue')"),
        ready="ready",
        fill=bare.fill,
    )
    samples, told = await measure_rounds(stand, [bare, broken], [0], items=20)
    assert "| gone | 0 | - |  |  | Broken: no such queue |" in write_costs(samples, told, {})


async def test_a_door_is_measured(stand: Stand) -> None:
    """Ours and the one that only reads accept every webhook."""
    table = await report_door(stand, SHORT)
    assert table.count("\n| ") == 4
    assert "| only reads | " in table


async def test_latency_is_measured(stand: Stand) -> None:
    """Every shot becomes a record, ours and the script's."""
    assert "| p99 | " in await report_latency(stand, SHORT)


async def test_a_backlog_is_measured_at_two_depths(stand: Stand) -> None:
    """Claiming and settling go on at both, and a ticket is weighed."""
    table = await report_depth(stand, SHORT)
    assert "| the ticket | " in table


async def test_two_workers_are_measured(stand: Stand) -> None:
    """Both empty the one backlog."""
    pace = await measure_pace(stand, workers=2, items=20)
    assert pace.per_s > 0


def test_a_verdict_is_given_only_where_the_spread_carries_it() -> None:
    """A goal inside the middle half is neither met nor missed."""
    ratio = compare([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert ratio == Spread(1.5, 2.0, 2.5)
    assert [judge(ratio, goal) for goal in (1.0, 2.0, 3.0)] == [
        "not met",
        "within the spread",
        "met",
    ]
    assert measure_spread([4.0]) == Spread(4.0, 4.0, 4.0)


def test_who_could_not_be_installed_is_told() -> None:
    """A peer that is not there is a line of the table, and not left out."""
    table = write_costs({"ours": [1.0]}, ALONE.absent, {})
    assert "| arq | 0 | - |  |  | it could not be installed |" in table


def test_who_broke_before_anybody_could_be_compared_is_told() -> None:
    """Not even our own breaking costs the table."""
    table = write_costs({"ours": [1.0], "theirs": [2.0, 2.0]}, {"ours": "gone"}, {"theirs": 1.0})
    assert "| ours | 0 | - |  |  | gone |" in table
    assert "| theirs | 2 | 2.000 (2.000 … 2.000) |  |  |  |" in table


def test_rounds_end_when_their_time_is_up() -> None:
    """As many as asked for, or the fewest that say anything when there is no time at all."""
    assert [*take_turns(5, 60)] == [0, 1, 2, 3, 4]
    assert [*take_turns(5, 0)] == [0, 1, 2]


@pytest.mark.parametrize(("group", "lock"), LOCKS.items())
def test_a_lock_holds_what_its_peers_ask_for(group: str, lock: Path) -> None:
    """A peer added to pyproject.toml without `run.py lock` is noticed."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"][group]
    names = {re.split(r"[\[<>=; ]", each)[0] for each in asked}
    assert names <= read_pins(lock).keys()


def test_both_sides_share_their_clients() -> None:
    """Whatever we and the peers both use is of one version; only arq wants an older redis-py."""
    ours = read_pins(ROOT / "tests" / "requirements.lock")
    differing = {
        name
        for lock in LOCKS.values()
        for name, version in read_pins(lock).items()
        if ours.get(name, version) != version
    }
    assert differing <= {"redis"}


def read_pins(lock: Path) -> dict[str, str]:
    """Read the versions that a lock pins."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE))
