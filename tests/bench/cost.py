"""What do we cost, beside what one would glue together? `python3 run.py bench [cost]`.

Every pair runs side by side on one machine, against one server that syncs each write to disk, in
rounds that take turns. What is told is the median and the middle half of the rounds; a verdict is
given only where the whole middle half lies on one side of the goal.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from tests.bench.reports import Plan, report_door, report_record
from tests.bench.stand import Stand, open_stand

Report = Callable[[Stand, Plan], Awaitable[str]]

ROWS: Mapping[str, Report] = {
    "record": report_record,
    "door": report_door,
}


async def measure(names: list[str], plan: Plan) -> None:
    """Measure row after row, each printed as soon as it is known."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with open_stand(Path(folder)) as stand:
            for name in names:
                since = time.monotonic()
                print(await ROWS[name](stand, plan), flush=True)
                print(f"\n({name}: {time.monotonic() - since:.0f} s)\n", flush=True)


def main() -> None:
    """Read what was typed, and measure."""
    parser = argparse.ArgumentParser(prog="run.py bench cost", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*ROWS], help="a row; may be repeated")
    parser.add_argument("--rounds", type=int, default=7, help="pairs in each row")
    parser.add_argument("--items", type=int, default=2000, help="records, or webhooks, in a round")
    typed = parser.parse_args()
    plan = Plan(rounds=typed.rounds, items=typed.items)
    asyncio.run(measure(typed.only or [*ROWS], plan))


if __name__ == "__main__":
    sys.exit(main())
