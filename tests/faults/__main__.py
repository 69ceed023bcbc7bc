"""The command `python3 run.py faults`: a long storm, a table and an exit code.

Ctrl-C ends the storm early. The oracle still checks everything that was accepted until then.
"""

import argparse
import asyncio
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.recovery import Recovery, measure_recovery
from tests.faults.report import format_report
from tests.faults.storm import Storm, StormConfig, StormResult, log_progress
from tests.faults.strike_schedule import StrikeConfig
from tests.faults.system import FLAG_EVENT_ENVIRON, LEASE_S, SystemConfig, start_system
from tests.faults.traffic import TrafficConfig


def main() -> int:
    """Run the storm of the arguments; return 1 when the oracle found anything wrong."""
    parser = argparse.ArgumentParser(
        prog="run.py faults",
        description="strike every process, then count all lost and duplicated work",
    )
    add = parser.add_argument
    add("--seed", type=int, default=1, help="seed of the storm")
    add("--webhooks", type=int, default=0, help="end after this many accepted webhooks")
    add("--kills", type=int, default=0, help="end after this many SIGKILLs")
    add("--minutes", type=float, default=0.0, help="end after this many minutes")
    add("--durability", choices=["always", "everysec"], default="always", help="appendfsync")
    add("--every", type=float, default=2.4, help="mean seconds between two strikes")
    add("--per-s", type=float, default=70.0, help="webhooks sent per second")
    add("--reported", type=float, default=0.1, help="share of them that the service reports")
    add("--flag-events", type=float, default=0.0, help="changes of flags per second")
    add("--rounds", type=int, default=10, help="kills per process to measure the recovery")
    options = parser.parse_args()
    if not (options.webhooks or options.kills or options.minutes):
        options.webhooks, options.kills = 100_000, 500
    outcome, recovery = asyncio.run(_run(options))
    arguments = {name.replace("_", "-"): value for name, value in vars(options).items() if value}
    command_line = shlex.join(f"--{name}={value}" for name, value in arguments.items())
    title = f"seed {options.seed}, appendfsync {options.durability}"
    sys.stdout.write(format_report(outcome, recovery, title=title))
    sys.stdout.write(f"\nRepeat with: python3 run.py faults {command_line}\n")
    return 0 if outcome.is_clean else 1


async def _run(options: argparse.Namespace) -> tuple[StormResult, Recovery | None]:
    storm_config = StormConfig(
        seed=options.seed,
        strikes=StrikeConfig(interval_s=options.every, lease_s=LEASE_S),
        per_s=options.per_s,
        webhooks=options.webhooks,
        kills=options.kills,
        seconds=options.minutes * 60,
        flag_events_per_s=options.flag_events,
        traffic=TrafficConfig(reported_share=options.reported),
    )
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        system_config = SystemConfig(
            seed=options.seed,
            appendfsync=options.durability,
            environ=FLAG_EVENT_ENVIRON if options.flag_events else {},
        )
        (Path(folder) / "idle").mkdir()
        recovery = None
        if options.rounds:
            async with start_system(system_config, Path(folder) / "idle") as system:
                recovery = await measure_recovery(system, rounds=options.rounds, seed=options.seed)
        (Path(folder) / "storm").mkdir()
        async with start_system(system_config, Path(folder) / "storm") as system:
            storm = Storm(system, storm_config)
            for signal_number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(signal_number, storm.stop_early)
            return await storm.run(log_progress), recovery


if __name__ == "__main__":
    sys.exit(main())
