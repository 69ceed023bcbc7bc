"""What do we cost, beside what one would glue together? `python3 run.py bench [cost]`.

Every pair runs side by side on one machine, against one server that syncs each write to disk, in
rounds that take turns. What is told is the median and the middle half of the rounds; a verdict is
given only where the whole middle half lies on one side of the goal.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from tests.bench import reports
from tests.bench.bench_env import BenchEnvironment, open_bench_environment
from tests.bench.peer_catalog import Peers, install_peers
from tests.bench.reports import BenchConfig

REPORTS: Mapping[str, Callable[[BenchEnvironment, BenchConfig], Awaitable[str]]] = {
    "record": reports.report_record,
    "listed": reports.report_listed,
    "receiver": reports.report_receiver,
    "latency": reports.report_latency,
    "depth": reports.report_depth,
    "memory": reports.report_memory,
    "scaling": reports.report_scaling,
}
REPORTS_WITH_PEERS = {"record", "receiver"}


async def run_reports(names: Sequence[str], config: BenchConfig) -> None:
    """Measure row after row, each printed as soon as it is known."""
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with open_bench_environment(Path(folder)) as env:
            for name in names:
                started_s = time.monotonic()
                try:
                    report = await REPORTS[name](env, config)
                except Exception as error:  # noqa: BLE001 - one row that breaks costs no other
                    report = f"## {name}\n\nIt broke: {type(error).__name__}: {error}"
                    env.stop_all_but_upstream()
                print(f"\n{report}", flush=True)
                print(f"\n({name}: {time.monotonic() - started_s:.0f} s)", flush=True)


def describe_machine() -> str:
    """Say what this was measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "redis", "msgspec"))
    return (
        f"{os.cpu_count()} cores ({models[0] if models else platform.machine()}), "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, {libraries}"
    )


def main() -> None:
    """Read what was typed, and measure."""
    parser = argparse.ArgumentParser(prog="run.py bench cost", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=[*REPORTS], help="a row; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=7, help="pairs in each row")
    parser.add_argument("--items", type=int, default=1500, help="records, or webhooks, in a round")
    parser.add_argument("--deep", type=int, default=1_000_000, help="tickets in the deep backlog")
    parser.add_argument("--no-peers", action="store_true", help="only us and the bare sides")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("the benchmarks read /proc: they run on Linux")
    names = options.only or [*REPORTS]
    needs_peers = REPORTS_WITH_PEERS & {*names} and not options.no_peers
    peers = install_peers() if needs_peers else Peers((), (), {})
    config = BenchConfig(
        rounds=options.rounds, items=options.items, peers=peers, deep_backlog=options.deep
    )
    asyncio.run(run_reports(names, config))


if __name__ == "__main__":
    main()
