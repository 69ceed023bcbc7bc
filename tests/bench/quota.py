"""How much of the quota is used, how often is it overrun, and how does the common recipe fare?

python3 run.py bench quota [--scenario NAME] [--workers N] [--windows N] [--seed N]
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from tests.bench.quota_plant import Kind, open_plant
from tests.bench.quota_scenarios import SCENARIOS, Scenario
from tests.bench.quota_share import Run

_KINDS: tuple[Kind, ...] = ("ours", "recipe")


class Cell(Struct, frozen=True, kw_only=True):
    """One row of the table: who drained which backlog, and how it went."""

    name: str
    workers: int
    kind: Kind
    run: Run


def main(words: Sequence[str]) -> None:
    """Measure what was asked for, and print the table."""
    arguments = read_arguments(words)
    chosen = {
        name: replace(
            scenario,
            workers=arguments.workers or scenario.workers,
            windows=arguments.windows or scenario.windows,
        )
        for name, scenario in SCENARIOS.items()
        if not arguments.scenario or name in arguments.scenario
    }
    cells = asyncio.run(measure(chosen, arguments.kind or _KINDS, arguments.seed))
    sys.stdout.write(write_table(chosen, cells))


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read what was typed."""
    parser = argparse.ArgumentParser(prog="bench quota", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--workers", action="append", type=int, help="processes; default: 1 4 16")
    parser.add_argument("--windows", type=int, help="whole windows of work for each run")
    parser.add_argument("--kind", action="append", choices=_KINDS, help="default: both")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(words)


async def measure(scenarios: dict[str, Scenario], kinds: Sequence[Kind], seed: int) -> list[Cell]:
    """Drain every backlog once; worker processes are started before any clock runs."""
    cells = []
    async with open_plant() as plant:
        for count in sorted({count for each in scenarios.values() for count in each.workers}):
            wanted = {name: each for name, each in scenarios.items() if count in each.workers}
            for kind in kinds:
                async with plant.workers(kind, count):
                    for name, scenario in wanted.items():
                        run = await plant.drain(kind, scenario, seed)
                        cells.append(Cell(name=name, workers=count, kind=kind, run=run))
                        sys.stderr.write(f"{write_row(cells[-1])}\n")
    return cells


def write_table(scenarios: dict[str, Scenario], cells: Sequence[Cell]) -> str:
    """Write the table in Markdown, ours beside the recipe, and what each scenario is."""
    titles = (
        "scenario",
        "workers",
        "by",
        "quota used",
        "429 per 1,000",
        "while closed",
        "drained in",
    )
    rows = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for name in scenarios:
        of_it = [cell for cell in cells if cell.name == name]
        rows += [write_row(each) for each in sorted(of_it, key=lambda each: each.workers)]
    legend = [f"- `{name}`: {scenario.told}" for name, scenario in scenarios.items()]
    return "\n".join((*rows, "", *legend, ""))


def write_row(cell: Cell) -> str:
    """Write one row."""
    run = cell.run
    used = f"{run.share.percent:.1f} % of {run.share.windows} windows"
    drained = f"{run.took_s:.1f} s" if run.drained else f"not in {run.took_s:.0f} s"
    refused = f"{run.refused_per_thousand:.1f} ({run.refused} of {run.calls})"
    told = (cell.name, cell.workers, cell.kind, used, refused, run.breaches, drained)
    return f"| {' | '.join(map(str, told))} |"


if __name__ == "__main__":
    main(sys.argv[1:])
