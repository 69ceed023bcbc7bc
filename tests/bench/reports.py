"""How is each row measured and told? Rounds in turn, medians, quartiles, a table."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from tests.bench import depth, latency, residence, scaling
from tests.bench.contestants import make_bare, make_ours
from tests.bench.figures import Spread, compare, judge, measure_spread, percentile, write_table
from tests.bench.records import measure_rounds
from tests.bench.roster import Peers
from tests.bench.stand import Stand
from tests.bench.turns import take_turns
from tests.bench.webhooks import list_own_doors, measure_doors

# All together stay under half an hour, however busy the machine is.
_LIMITS_S = {
    "record": 540,
    "listed": 100,
    "door": 200,
    "latency": 60,
    "depth": 60,
    "scaling": 150,
}

Samples = Mapping[str, Sequence[float]]
_COST_HEADS = ("", "rounds", "CPU ms each: median (quartiles)", "ours / theirs", "goal", "")


class Plan(Struct, frozen=True, kw_only=True):
    """How long to measure, beside whom, and how much waits in the deep backlog."""

    rounds: int
    items: int
    peers: Peers
    deep: int = 1_000_000

    def turns(self, row: str) -> Iterator[int]:
        """Count the rounds of a row, as far as its time reaches."""
        return take_turns(self.rounds, _LIMITS_S[row])


async def report_record(stand: Stand, plan: Plan) -> str:
    """One enriched record of a deployment whose id was sent: one GET each."""
    contestants = [make_ours(), make_bare("record"), make_bare("get"), *plan.peers.contestants]
    samples, broken = await measure_rounds(
        stand, contestants, plan.turns("record"), items=plan.items
    )
    names = [each.name for each in plan.peers.contestants]
    goals = {"bare loop": 0.7} | dict.fromkeys(names, 1 / 3)
    told = plan.peers.absent | broken
    return "## One enriched record, its id sent\n\n" + write_costs(samples, told, goals)


async def report_listed(stand: Stand, plan: Plan) -> str:
    """One enriched record of a deployment that has to be sought: ten applications, no ids."""
    contestants = [make_ours(listed=True), make_bare("record"), make_bare("get")]
    samples, broken = await measure_rounds(
        stand, contestants, plan.turns("listed"), items=plan.items
    )
    title = "## One enriched record, sought: ten applications of one environment\n\n"
    return title + write_costs(samples, broken, {"bare loop": 0.7})


async def report_door(stand: Stand, plan: Plan) -> str:
    """One accepted webhook."""
    doors = [*list_own_doors(), *plan.peers.doors]
    samples, broken = await measure_doors(stand, doors, plan.turns("door"), items=plan.items)
    names = [door.name for door in plan.peers.doors]
    goals = {"only reads": 1.6} | dict.fromkeys(names, 1 / 5)
    absent = {name: why for name, why in plan.peers.absent.items() if name.startswith("FastAPI")}
    return "## One accepted webhook\n\n" + write_costs(samples, absent | broken, goals)


async def report_latency(stand: Stand, plan: Plan) -> str:
    """From webhook to record on an idle system."""
    turns = await latency.measure_latency(stand, plan.turns("latency"))
    rows = []
    for name, share, goal in (("median", 0.5, 1.5), ("p99", 0.99, 3.0)):
        ours, theirs = (
            [percentile([shot[side] for shot in turn], share) for turn in turns] for side in (0, 1)
        )
        ratio = compare(ours, theirs)
        spent = [measure_spread(each).write() for each in (ours, theirs)]
        rows.append([name, *spent, ratio.write(), f"<= {goal:.2f}", judge(ratio, goal)])
    heads = ["ms, of each round", "webhook to record", "script: GET, XADD", "ratio", "goal", ""]
    return "## Webhook to record on an idle system\n\n" + write_table(heads, rows)


async def report_depth(stand: Stand, plan: Plan) -> str:
    """Claim and settle at two depths, and the memory of a ticket."""
    depths = (1000, plan.deep)
    samples, memories = await depth.measure_depths(stand, depths, plan.turns("depth"))
    rows = []
    for name in ("server_us", "wall_us"):
        shallow, deep = ([getattr(each, name) for each in side] for side in samples)
        ratio = compare(deep, shallow)
        spent = [measure_spread(each).write(1) for each in (shallow, deep)]
        told = {"server_us": "Redis's own time, µs", "wall_us": "by the clock, µs"}[name]
        rows.append([told, *spent, ratio.write(), "<= 1.20", judge(ratio, 1.2)])
    heads = ["claim and settle one", *(f"{each:,} wait" for each in depths), "ratio", "goal", ""]
    memory = memories[1]
    bytes_rows = [
        ["the ticket", f"{memory.ticket:.0f}", "<= 300", _judge_one(memory.ticket, 300)],
        ["and its delivery mark", f"{memory.everything:.0f}", "", ""],
    ]
    return (
        "## A full backlog\n\n"
        + write_table(heads, rows)
        + "\n\n"
        + write_table(["Redis memory of what waits", "bytes each", "goal", ""], bytes_rows)
    )


async def report_memory(stand: Stand, _: Plan) -> str:
    """The memory of a worker."""
    many = await residence.measure_many(stand)
    large = await residence.measure_large(stand)
    goal = 70 + 6 * large.page_mb
    name = f"one record of {large.record_mb:.0f} MB, largest page {large.page_mb:.2f} MB"
    rows = [
        [f"{residence.CONCURRENCY} tickets at once", f"{many:.0f}", "<= 70", _judge_one(many, 70)],
        [name, f"{large.peak_mb:.0f}", f"<= {goal:.0f}", _judge_one(large.peak_mb, goal)],
    ]
    heads = ["a worker's resident memory", "MB at the peak", "goal", ""]
    return "## A worker's memory\n\n" + write_table(heads, rows)


async def report_scaling(stand: Stand, plan: Plan) -> str:
    """Throughput of one worker and of two."""
    paces: list[list[scaling.Pace]] = [[], []]
    for _ in plan.turns("scaling"):
        for taken, workers in zip(paces, (1, 2), strict=True):
            pace = await scaling.measure_pace(stand, workers=workers, items=2 * plan.items)
            taken.append(pace)
    one, two = ([pace.per_s for pace in taken] for taken in paces)
    busy = [measure_spread([pace.busy * 100 for pace in taken]).write(0) for taken in paces]
    ratio = compare(two, one)
    spent = [measure_spread(each).write(0) for each in (one, two)]
    goal = "met" if ratio.low >= 1.8 else "not met" if ratio.high < 1.8 else "within the spread"
    rows = [
        ["records a second", *spent, ratio.write(), ">= 1.80", goal],
        ["all cores in use, %", *busy, "", "", ""],
    ]
    heads = ["", "1 worker", "2 workers", "ratio", "goal", ""]
    return "## Throughput\n\n" + write_table(heads, rows)


def write_costs(samples: Samples, absent: Mapping[str, str], goals: Mapping[str, float]) -> str:
    """Write who cost what, and the first of them beside each other."""
    (first, ours), *_ = samples.items()
    rows = []
    for name, spent in samples.items():
        if name not in absent:
            ratio = None if first in {name, *absent} else compare(ours, spent)
            rounds = str(len(spent))
            told = _tell(ratio, goals.get(name))
            rows.append([name, rounds, measure_spread(spent).write(3), *told])
    rows += [[name, "0", "-", "", "", why.strip().splitlines()[-1]] for name, why in absent.items()]
    return write_table(_COST_HEADS, rows)


def _tell(ratio: Spread | None, goal: float | None) -> tuple[str, str, str]:
    if ratio is None:
        return "", "", ""
    told = ("", "") if goal is None else (f"<= {goal:.2f}", judge(ratio, goal))
    return ratio.write(), *told


def _judge_one(value: float, goal: float) -> str:
    return "met" if value <= goal else "not met"
