"""The benchmark of the quota: the used share and the 429s, compared with a common recipe.

python3 run.py bench quota [--scenario NAME] [--workers N] [--windows N] [--seed N]
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from tests.bench.quota_harness import WorkerKind, open_harness
from tests.bench.quota_scenarios import SCENARIOS, Scenario
from tests.bench.quota_share import DrainResult

_KINDS: tuple[WorkerKind, ...] = ("service", "recipe")


class QuotaResult(Struct, frozen=True, kw_only=True):
    """One row of the table: the scenario, the workers and the result."""

    scenario: str
    workers: int
    kind: WorkerKind
    run: DrainResult


def main(argv: Sequence[str]) -> None:
    """Measure the selected scenarios and print the table."""
    arguments = parse_arguments(argv)
    scenarios = {
        name: replace(
            scenario,
            workers=arguments.workers or scenario.workers,
            windows=arguments.windows or scenario.windows,
        )
        for name, scenario in SCENARIOS.items()
        if not arguments.scenario or name in arguments.scenario
    }
    results = asyncio.run(measure_scenarios(scenarios, arguments.kind or _KINDS, arguments.seed))
    sys.stdout.write(format_table(scenarios, results))


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="bench quota", description=__doc__)
    parser.add_argument(
        "--scenario",
        action="append",
        choices=SCENARIOS,
        help="only this scenario; may be repeated",
    )
    parser.add_argument("--workers", action="append", type=int, help="processes; may be repeated")
    parser.add_argument("--windows", type=int, help="complete windows of work per run")
    parser.add_argument("--kind", action="append", choices=_KINDS, help="only this kind of worker")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


async def measure_scenarios(
    scenarios: dict[str, Scenario], kinds: Sequence[WorkerKind], seed: int
) -> list[QuotaResult]:
    """Drain every backlog once. All worker processes start before a measurement."""
    results = []
    async with open_harness() as system:
        for workers in sorted(
            {workers for candidate in scenarios.values() for workers in candidate.workers}
        ):
            selected = {
                name: candidate
                for name, candidate in scenarios.items()
                if workers in candidate.workers
            }
            for kind in kinds:
                async with system.run_workers(kind, workers):
                    for name, scenario in selected.items():
                        run = await system.drain(kind, scenario, seed)
                        results.append(
                            QuotaResult(scenario=name, workers=workers, kind=kind, run=run)
                        )
                        sys.stderr.write(f"{format_row(results[-1])}\n")
    return results


def format_table(scenarios: dict[str, Scenario], results: Sequence[QuotaResult]) -> str:
    """Return the Markdown table of all results, and a legend of the scenarios."""
    header = (
        "scenario",
        "workers",
        "implementation",
        "quota used",
        "429 per 1,000",
        "while closed",
        "drained in",
    )
    rows = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for name in scenarios:
        matching = [result for result in results if result.scenario == name]
        rows += [
            format_row(result) for result in sorted(matching, key=lambda result: result.workers)
        ]
    legend = [f"- `{name}`: {scenario.description}" for name, scenario in scenarios.items()]
    return "\n".join((*rows, "", *legend, ""))


def format_row(result: QuotaResult) -> str:
    """Return one row of the table."""
    run = result.run
    used = f"{run.share.percent:.1f} % of {run.share.windows} windows"
    drained = f"{run.took_s:.1f} s" if run.drained else f"not within {run.took_s:.0f} s"
    refused = f"{run.rate_limited_per_thousand:.1f} ({run.rate_limited} of {run.calls})"
    cells = (
        result.scenario,
        result.workers,
        result.kind,
        used,
        refused,
        run.rate_limited_while_closed,
        drained,
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main(sys.argv[1:])
