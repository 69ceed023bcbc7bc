"""How is a long storm run? `python3 run.py faults`: to its end, then a table and an exit code.

Ctrl-C ends it early; what was accepted until then is judged all the same.
"""

import argparse
import asyncio
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.plant import LEASE_S, Cast, build_plant
from tests.faults.recovery import Recovery, measure_recovery
from tests.faults.report import write_report
from tests.faults.schedule import Tempo
from tests.faults.storm import Order, Outcome, Storm, say


def main() -> int:
    """Run what was asked for; 1 when anything was lost, twice, stuck or wrong."""
    parser = argparse.ArgumentParser(prog="run.py faults", description="kill everything, count all")
    add = parser.add_argument
    add("--seed", type=int, default=1, help="what the storm is drawn from")
    add("--webhooks", type=int, default=0, help="accepted webhooks that it goes on for")
    add("--kills", type=int, default=0, help="SIGKILLs that it goes on for")
    add("--minutes", type=float, default=0.0, help="minutes that it goes on for")
    add("--durability", choices=["always", "everysec"], default="always", help="appendfsync")
    add("--every", type=float, default=2.4, help="seconds between two strokes")
    add("--per-s", type=float, default=70.0, help="webhooks sent in a second")
    add("--rounds", type=int, default=10, help="kills of which the recovery is measured")
    asked = parser.parse_args()
    if not (asked.webhooks or asked.kills or asked.minutes):
        asked.webhooks, asked.kills = 100_000, 500
    outcome, recovery = asyncio.run(_run(asked))
    given = {name.replace("_", "-"): value for name, value in vars(asked).items() if value}
    words = shlex.join(f"--{name}={value}" for name, value in given.items())
    title = f"seed {asked.seed}, appendfsync {asked.durability}"
    sys.stdout.write(write_report(outcome, recovery, title=title))
    sys.stdout.write(f"\nOnce more: python3 run.py faults {words}\n")
    return 0 if outcome.is_clean else 1


async def _run(asked: argparse.Namespace) -> tuple[Outcome, Recovery | None]:
    order = Order(
        seed=asked.seed,
        tempo=Tempo(every_s=asked.every, lease_s=LEASE_S),
        per_s=asked.per_s,
        webhooks=asked.webhooks,
        kills=asked.kills,
        seconds=asked.minutes * 60,
    )
    with tempfile.TemporaryDirectory(prefix="faults-") as home:
        cast = Cast(seed=asked.seed, appendfsync=asked.durability)
        (Path(home) / "idle").mkdir()
        recovery = None
        if asked.rounds:
            async with build_plant(cast, Path(home) / "idle") as plant:
                recovery = await measure_recovery(plant, rounds=asked.rounds, seed=asked.seed)
        (Path(home) / "storm").mkdir()
        async with build_plant(cast, Path(home) / "storm") as plant:
            storm = Storm(plant, order)
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, storm.cut_short)
            return await storm.rage(say), recovery


if __name__ == "__main__":
    sys.exit(main())
