"""The benchmark of CPU, latency and memory: `python3 run.py bench [cost]`.

It compares the service with baselines and with other queues.

All pairs run in alternating rounds on one machine, against one server that syncs each write to
disk. The tables show the median and the quartiles of the rounds. A goal is met or missed only when
both quartiles lie on the same side of it.
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

from service.cli.event_loop import new_event_loop
from tests.bench import reports
from tests.bench.bench_env import BenchEnvironment, open_bench_environment
from tests.bench.peer_catalog import Peers, install_peers
from tests.bench.reports import BenchConfig
from tests.bench.summary import Comparison, Report, format_summary

REPORTS: Mapping[str, Callable[[BenchEnvironment, BenchConfig], Awaitable[Report]]] = {
    "record": reports.report_record,
    "listed": reports.report_listed,
    "receiver": reports.report_receiver,
    "latency": reports.report_latency,
    "depth": reports.report_depth,
    "memory": reports.report_memory,
    "scaling": reports.report_scaling,
    "reading": reports.report_reading,
}
REPORTS_WITH_PEERS = {"record", "receiver"}


async def run_reports(names: Sequence[str], config: BenchConfig) -> None:
    """Measure each report and print it as soon as it is ready, and the summary at the end."""
    print(describe_machine(), flush=True)
    comparisons: list[Comparison] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with open_bench_environment(Path(folder)) as env:
            for name in names:
                started_s = time.monotonic()
                try:
                    report = await REPORTS[name](env, config)
                except Exception as error:  # noqa: BLE001 - a failing report must not stop the others
                    report = Report(f"## {name}\n\nFailed: {type(error).__name__}: {error}")
                    env.stop_all_but_upstream()
                comparisons += report.comparisons
                print(f"\n{report.text}", flush=True)
                print(f"\n({name}: {time.monotonic() - started_s:.0f} s)", flush=True)
    if comparisons:
        print(f"\n{format_summary(comparisons, loop=describe_loop())}", flush=True)


def describe_loop() -> str:
    """Return the event loop of the service and of the baselines."""
    loop = new_event_loop()
    loop.close()
    return type(loop).__module__.partition(".")[0]


def describe_machine() -> str:
    """Return a description of the machine and of the software versions."""
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
    """Parse the arguments and run the reports."""
    parser = argparse.ArgumentParser(prog="run.py bench cost", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=[*REPORTS],
        help="only this report; may be repeated",
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each report")
    parser.add_argument("--items", type=int, default=1500, help="records or webhooks per round")
    parser.add_argument("--deep", type=int, default=1_000_000, help="tickets in the deep backlog")
    parser.add_argument("--no-peers", action="store_true", help="skip all other queues")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("the benchmarks need Linux, because they read /proc")
    names = options.only or [*REPORTS]
    needs_peers = REPORTS_WITH_PEERS & {*names} and not options.no_peers
    peers = install_peers() if needs_peers else Peers((), (), {})
    config = BenchConfig(
        rounds=options.rounds, items=options.items, peers=peers, deep_backlog=options.deep
    )
    asyncio.run(run_reports(names, config))


if __name__ == "__main__":
    main()
