"""How is each row measured and told? Rounds in turn, medians, quartiles, a table."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from tests.bench.contestants import make_bare, make_ours
from tests.bench.figures import compare, judge, measure_spread, write_table
from tests.bench.records import measure_rounds
from tests.bench.stand import Stand
from tests.bench.webhooks import list_own_doors, measure_door


class Plan(Struct, frozen=True):
    """How long to measure."""

    rounds: int
    items: int


async def report_record(stand: Stand, plan: Plan) -> str:
    """One enriched record."""
    contestants = [make_ours(), make_bare("record"), make_bare("get")]
    samples, broken = await measure_rounds(stand, contestants, rounds=plan.rounds, items=plan.items)
    goals = {"bare loop": 0.7}
    return "## One enriched record\n\n" + write_costs(samples, broken, goals)


async def report_door(stand: Stand, plan: Plan) -> str:
    """One accepted webhook."""
    doors = list_own_doors()
    samples: dict[str, list[float]] = {door.name: [] for door in doors}
    for _ in range(plan.rounds):
        for door in doors:
            samples[door.name].append(await measure_door(stand, door, items=plan.items))
    return "## One accepted webhook\n\n" + write_costs(samples, {}, {"only reads": 1.6})


def write_costs(
    samples: Mapping[str, Sequence[float]], broken: Mapping[str, str], goals: Mapping[str, float]
) -> str:
    """Write who cost what, and us beside each."""
    ours = samples["ours"]
    rows = []
    for name, spent in samples.items():
        if name in broken:
            rows.append([name, "broke", "", "", broken[name].splitlines()[-1]])
            continue
        ratio = compare(ours, spent)
        goal = goals.get(name)
        told = ["", ""] if goal is None else [f"<= {goal:.2f}", judge(ratio, goal)]
        shown = "" if name == "ours" else ratio.write()
        rows.append([name, measure_spread(spent).write(3), shown, *told])
    heads = ["", "CPU ms each: median (quartiles)", "ours / theirs", "goal", ""]
    return write_table(heads, rows)
