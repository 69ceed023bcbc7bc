"""The reports: how each is measured and formatted."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from tests.bench import depth, latency, scaling, worker_memory
from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import build_baseline, build_service
from tests.bench.peer_catalog import Peers
from tests.bench.records import measure_rounds
from tests.bench.rounds import iterate_rounds
from tests.bench.spread import (
    Spread,
    check_goal,
    compare_rounds,
    format_table,
    measure_spread,
    percentile,
)
from tests.bench.webhooks import measure_receivers, own_receivers

# All reports together take less than half an hour, even on a busy machine.
_TIME_LIMITS_S = {
    "record": 540,
    "listed": 100,
    "receiver": 200,
    "latency": 60,
    "depth": 60,
    "scaling": 150,
}

Samples = Mapping[str, Sequence[float]]
_COST_HEADER = ("", "rounds", "CPU ms each: median (quartiles)", "service / other", "goal", "")


class BenchConfig(Struct, frozen=True, kw_only=True):
    """The rounds and items of each report, the peers, and the depth of the deep backlog."""

    rounds: int
    items: int
    peers: Peers
    deep_backlog: int = 1_000_000

    def round_numbers(self, row: str) -> Iterator[int]:
        """Yield the rounds of a report, within its time limit."""
        return iterate_rounds(self.rounds, _TIME_LIMITS_S[row])


async def report_record(env: BenchEnvironment, config: BenchConfig) -> str:
    """Report one enriched record of a deployment with an id: one GET each."""
    contestants = [
        build_service(),
        build_baseline("record"),
        build_baseline("get"),
        *config.peers.contestants,
    ]
    samples, errors = await measure_rounds(
        env, contestants, config.round_numbers("record"), items=config.items
    )
    names = [contestant.name for contestant in config.peers.contestants]
    goals = {"bare loop": 0.7} | dict.fromkeys(names, 1 / 3)
    missing = config.peers.unavailable | errors
    return "## One enriched record, with its id\n\n" + format_costs(samples, missing, goals)


async def report_listed(env: BenchEnvironment, config: BenchConfig) -> str:
    """Report one enriched record without an id: ten applications in shared list calls."""
    contestants = [build_service(without_ids=True), build_baseline("record"), build_baseline("get")]
    samples, errors = await measure_rounds(
        env, contestants, config.round_numbers("listed"), items=config.items
    )
    title = "## One enriched record, without its id: ten applications of one environment\n\n"
    return title + format_costs(samples, errors, {"bare loop": 0.7})


async def report_receiver(env: BenchEnvironment, config: BenchConfig) -> str:
    """Report one accepted webhook."""
    receivers = [*own_receivers(), *config.peers.receivers]
    samples, errors = await measure_receivers(
        env, receivers, config.round_numbers("receiver"), items=config.items
    )
    names = [receiver.name for receiver in config.peers.receivers]
    goals = {"only reads": 1.6} | dict.fromkeys(names, 1 / 5)
    absent = {
        name: reason
        for name, reason in config.peers.unavailable.items()
        if name.startswith("FastAPI")
    }
    return "## One accepted webhook\n\n" + format_costs(samples, absent | errors, goals)


async def report_latency(env: BenchEnvironment, config: BenchConfig) -> str:
    """Report the latency from webhook to record on an idle system."""
    rounds = await latency.measure_latency(env, config.round_numbers("latency"))
    rows = []
    for name, share, goal in (("median", 0.5, 1.5), ("p99", 0.99, 3.0)):
        service_ms, script_ms = (
            [
                percentile([sample[side] for sample in round_samples], share)
                for round_samples in rounds
            ]
            for side in (0, 1)
        )
        ratio = compare_rounds(service_ms, script_ms)
        spreads = [measure_spread(values).format() for values in (service_ms, script_ms)]
        rows.append([name, *spreads, ratio.format(), f"<= {goal:.2f}", check_goal(ratio, goal)])
    header = ["ms per round", "webhook to record", "script: GET, XADD", "ratio", "goal", ""]
    return "## Webhook to record on an idle system\n\n" + format_table(header, rows)


async def report_depth(env: BenchEnvironment, config: BenchConfig) -> str:
    """Report claims and settlements at two depths, and the memory of a ticket."""
    depths = (1000, config.deep_backlog)
    samples, memories = await depth.measure_depths(env, depths, config.round_numbers("depth"))
    rows = []
    for name in ("server_us", "wall_us"):
        shallow, deep = ([getattr(value, name) for value in side] for side in samples)
        ratio = compare_rounds(deep, shallow)
        spreads = [measure_spread(value).format(1) for value in (shallow, deep)]
        label = {"server_us": "Redis time, µs", "wall_us": "elapsed time, µs"}[name]
        rows.append([label, *spreads, ratio.format(), "<= 1.20", check_goal(ratio, 1.2)])
    header = [
        "claim and settle one",
        *(f"{value:,} waiting" for value in depths),
        "ratio",
        "goal",
        "",
    ]
    memory = memories[1]
    bytes_rows = [
        [
            "one ticket",
            f"{memory.ticket_bytes:.0f}",
            "<= 300",
            _check_value(memory.ticket_bytes, 300),
        ],
        ["with its delivery mark", f"{memory.total_bytes:.0f}", "", ""],
    ]
    return (
        "## A full backlog\n\n"
        + format_table(header, rows)
        + "\n\n"
        + format_table(["Redis memory of a waiting ticket", "bytes each", "goal", ""], bytes_rows)
    )


async def report_memory(env: BenchEnvironment, _: BenchConfig) -> str:
    """Report the memory of a worker."""
    concurrent_mb = await worker_memory.measure_concurrent_mb(env)
    large = await worker_memory.measure_large_deployment(env)
    goal = 70 + 6 * large.page_mb
    name = f"one record of {large.record_mb:.0f} MB, largest page {large.page_mb:.2f} MB"
    rows = [
        [
            f"{worker_memory.CONCURRENCY} concurrent tickets",
            f"{concurrent_mb:.0f}",
            "<= 70",
            _check_value(concurrent_mb, 70),
        ],
        [name, f"{large.peak_mb:.0f}", f"<= {goal:.0f}", _check_value(large.peak_mb, goal)],
    ]
    header = ["resident memory of a worker", "peak MB", "goal", ""]
    return "## Memory of a worker\n\n" + format_table(header, rows)


async def report_scaling(env: BenchEnvironment, config: BenchConfig) -> str:
    """Report the throughput of one worker and of two."""
    throughputs: list[list[scaling.Throughput]] = [[], []]
    for _ in config.round_numbers("scaling"):
        for samples, workers in zip(throughputs, (1, 2), strict=True):
            throughput = await scaling.measure_throughput(
                env, workers=workers, items=2 * config.items
            )
            samples.append(throughput)
    single_worker, two_workers = (
        [throughput.per_s for throughput in samples] for samples in throughputs
    )
    busy_spreads = [
        measure_spread([throughput.busy_share * 100 for throughput in samples]).format(0)
        for samples in throughputs
    ]
    ratio = compare_rounds(two_workers, single_worker)
    spreads = [measure_spread(values).format(0) for values in (single_worker, two_workers)]
    goal = "met" if ratio.low >= 1.8 else "not met" if ratio.high < 1.8 else "within the spread"
    rows = [
        ["records per second", *spreads, ratio.format(), ">= 1.80", goal],
        ["all cores in use, %", *busy_spreads, "", "", ""],
    ]
    header = ["", "1 worker", "2 workers", "ratio", "goal", ""]
    return "## Throughput\n\n" + format_table(header, rows)


def format_costs(samples: Samples, absent: Mapping[str, str], goals: Mapping[str, float]) -> str:
    """Return the costs as a table, each compared with the first."""
    (baseline_name, baseline), *_ = samples.items()
    rows = []
    for name, values in samples.items():
        if name not in absent:
            ratio = None if baseline_name in {name, *absent} else compare_rounds(baseline, values)
            rounds = str(len(values))
            goal_cells = _format_goal(ratio, goals.get(name))
            rows.append([name, rounds, measure_spread(values).format(3), *goal_cells])
    rows += [
        [name, "0", "-", "", "", reason.strip().splitlines()[-1]] for name, reason in absent.items()
    ]
    return format_table(_COST_HEADER, rows)


def _format_goal(ratio: Spread | None, goal: float | None) -> tuple[str, str, str]:
    if ratio is None:
        return "", "", ""
    goal_cells = ("", "") if goal is None else (f"<= {goal:.2f}", check_goal(ratio, goal))
    return ratio.format(), *goal_cells


def _check_value(value: float, goal: float) -> str:
    return "met" if value <= goal else "not met"
