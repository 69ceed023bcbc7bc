"""The reports: how each is measured and formatted."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from service.store.embedded import EmbeddedServer
from tests.bench import depth, latency, scaling, worker_memory
from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import (
    build_baseline,
    build_content_floor,
    build_floor,
    build_service,
)
from tests.bench.peer_catalog import Peers
from tests.bench.read import compare_readers
from tests.bench.records import measure_rounds
from tests.bench.rounds import iterate_rounds
from tests.bench.script_times import Depths, ScriptTime, measure_scripts
from tests.bench.server_cost import format_server_costs
from tests.bench.spread import (
    Spread,
    check_goal,
    compare_rounds,
    format_table,
    measure_spread,
    percentile,
)
from tests.bench.summary import (
    Comparison,
    Report,
    Samples,
    compare_floors,
    compare_with,
    compare_with_cheapest,
)
from tests.bench.webhooks import measure_receivers, own_receivers

# All reports together take less than half an hour, even on a busy machine.
_TIME_LIMITS_S = {
    "record": 540,
    "listed": 100,
    "receiver": 200,
    "latency": 60,
    "memory": 200,
    "depth": 60,
    "scaling": 150,
}


class CostGoals(Struct, frozen=True, kw_only=True):
    """What the service may cost at most: beside the baseline of this name, and beside a queue."""

    baseline: str
    beside_baseline: float
    beside_queue: float = math.inf  # not compared with a queue

    def by_contestant(self, queues: Iterable[str]) -> dict[str, float]:
        """Return the goal beside each contestant."""
        return {
            self.baseline: self.beside_baseline,
            **dict.fromkeys(queues, self.beside_queue),
        }


# The goals of the summary: a cost of the service by that of something else, or a value.
_RECORD_GOALS = CostGoals(baseline="bare loop", beside_baseline=1.35, beside_queue=0.42)
_LISTED_GOALS = CostGoals(baseline="bare loop", beside_baseline=0.75)
_WEBHOOK_GOALS = CostGoals(baseline="only reads", beside_baseline=2.1, beside_queue=0.25)
_LATENCY_GOALS = {"median": 1.8, "p99": 3.0}
_CONCURRENT_MB, _LARGE_RECORD_MB = 70, 100
_LONGEST_BLOCK_MS = 50
_TICKET_BYTES = 300
_LONGEST_SCRIPT_MS = 5

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


async def report_record(env: BenchEnvironment, config: BenchConfig) -> Report:
    """Report one enriched record of a deployment with an id: one GET each."""
    contestants = [
        build_service(),
        build_baseline("record"),
        build_baseline("get"),
        build_floor(),
        build_content_floor(),
        *config.peers.contestants,
    ]
    samples, errors = await measure_rounds(
        env, contestants, config.round_numbers("record"), items=config.items
    )
    names = [contestant.name for contestant in config.peers.contestants]
    return Report(
        "## One enriched record, with its id\n\n"
        + format_costs(
            samples, config.peers.unavailable | errors, _RECORD_GOALS.by_contestant(names)
        )
        + _format_redis(env),
        _compare_costs(
            samples,
            names,
            what="record by id",
            baseline_text="bare loop: GET, decode, XADD",
            goals=_RECORD_GOALS,
        ),
    )


async def report_listed(env: BenchEnvironment, config: BenchConfig) -> Report:
    """Report one enriched record without an id: ten applications in shared list calls."""
    contestants = [
        build_service(without_ids=True),
        build_baseline("record"),
        build_baseline("get"),
        build_content_floor(without_ids=True),
    ]
    samples, errors = await measure_rounds(
        env, contestants, config.round_numbers("listed"), items=config.items
    )
    title = "## One enriched record, without its id: ten applications of one environment\n\n"
    return Report(
        title + format_costs(samples, errors, _LISTED_GOALS.by_contestant(())) + _format_redis(env),
        _compare_costs(
            samples,
            (),
            what="record found by list",
            baseline_text="bare loop: GET, decode, XADD",
            goals=_LISTED_GOALS,
        ),
    )


async def report_receiver(env: BenchEnvironment, config: BenchConfig) -> Report:
    """Report one accepted webhook."""
    receivers = [*own_receivers(), *config.peers.receivers]
    samples, errors = await measure_receivers(
        env, receivers, config.round_numbers("receiver"), items=config.items
    )
    names = [receiver.name for receiver in config.peers.receivers]
    absent = {
        name: reason
        for name, reason in config.peers.unavailable.items()
        if name.startswith("FastAPI")
    }
    return Report(
        "## One accepted webhook\n\n"
        + format_costs(samples, absent | errors, _WEBHOOK_GOALS.by_contestant(names))
        + _format_redis(env),
        _compare_costs(
            samples,
            names,
            what="webhook, verified and kept",
            baseline_text="handler that only reads the body",
            goals=_WEBHOOK_GOALS,
        ),
    )


def _compare_costs(
    samples: Samples, queues: Sequence[str], *, what: str, baseline_text: str, goals: CostGoals
) -> tuple[Comparison, ...]:
    """Compare the service and its floors with the baseline, and the service with the queues."""
    name, goal = goals.baseline, goals.beside_baseline
    return (
        *compare_with(samples, name, what=what, beside=baseline_text, goal=goal),
        *compare_floors(samples, name, what=what, beside=baseline_text, goal=goal),
        *compare_with_cheapest(
            samples, queues, what=what, beside="cheapest queue", goal=goals.beside_queue
        ),
    )


async def report_latency(env: BenchEnvironment, config: BenchConfig) -> Report:
    """Report the latency from webhook to record on an idle system."""
    rounds = await latency.measure_latency(env, config.round_numbers("latency"))
    rows, comparisons = [], []
    for name, share in (("median", 0.5), ("p99", 0.99)):
        goal = _LATENCY_GOALS[name]
        samples = {
            side: [
                percentile([sample[side] for sample in round_samples], share)
                for round_samples in rounds
            ]
            for side in latency.SIDES
        }
        ratio = compare_rounds(samples["service"], samples["script"])
        spreads = [measure_spread(values).format() for values in samples.values()]
        rows.append([name, *spreads, ratio.format(), f"<= {goal:.2f}", check_goal(ratio, goal)])
        what, beside = f"webhook to record, idle, {name}", "script: GET, XADD"
        comparisons.append(Comparison(what, beside, ratio, goal))
        comparisons += compare_floors(samples, "script", what=what, beside=beside, goal=goal)
    header = ["ms per round", *latency.SIDES, "service / script", "goal", ""]
    text = "## Webhook to record on an idle system\n\n" + format_table(header, rows)
    return Report(text, (*comparisons,))


async def report_depth(env: BenchEnvironment, config: BenchConfig) -> Report:
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
            f"<= {_TICKET_BYTES}",
            _check_value(memory.ticket_bytes, _TICKET_BYTES),
        ],
        ["with its delivery mark", f"{memory.total_bytes:.0f}", "", ""],
    ]
    count = config.deep_backlog
    held = Depths(tickets=count, entries=count, failed=count // 10, refreshes=count // 10)
    scripts = await measure_scripts(env, held, rounds=5 * config.rounds)
    longest = Comparison("longest script", held.describe(), scripts[0].ms, _LONGEST_SCRIPT_MS, "ms")
    return Report(
        "## A full backlog\n\n"
        + format_table(header, rows)
        + "\n\n"
        + format_table(["Redis memory of a waiting ticket", "bytes each", "goal", ""], bytes_rows)
        + f"\n\nEach script with {held.describe()}:\n\n"
        + _format_scripts(scripts),
        (longest,),
    )


def _format_scripts(scripts: Sequence[ScriptTime]) -> str:
    rows = [
        [script.name, str(script.calls), script.ms.format(), f"{script.max_ms:.2f}"]
        for script in scripts
    ]
    return format_table(["script", "calls", "ms: median (quartiles)", "maximum"], rows)


async def report_memory(env: BenchEnvironment, config: BenchConfig) -> Report:
    """Report the memory of a worker, and for how long a large record blocks its event loop."""
    concurrent_mb = await worker_memory.measure_concurrent_mb(env)
    single = [
        await worker_memory.measure_large_deployment(env) for _ in config.round_numbers("memory")
    ]
    many = await worker_memory.measure_large_responses(env)
    record = f"one record of {single[0].record_mb:.0f} MB"
    responses = f"{worker_memory.LARGE_RESPONSES} responses of {many.record_mb:.0f} MB at once"
    peak_mb, blocked_ms = (
        measure_spread([getattr(sample, name) for sample in single])
        for name in ("peak_mb", "blocked_ms")
    )
    many_ms = measure_spread([many.blocked_ms])
    memory, block = "peak memory of a worker", "longest block of its event loop"
    concurrent = measure_spread([concurrent_mb])
    tickets = f"{worker_memory.CONCURRENCY} concurrent tickets"
    comparisons = (
        Comparison(memory, tickets, concurrent, _CONCURRENT_MB, "MB"),
        Comparison(memory, record, peak_mb, _LARGE_RECORD_MB, "MB"),
        Comparison(block, record, blocked_ms, _LONGEST_BLOCK_MS, "ms"),
        Comparison(block, responses, many_ms, _LONGEST_BLOCK_MS, "ms"),
    )
    header = ("", "work", "median (quartiles)", "goal", "")
    text = format_table(header, [comparison.format_row() for comparison in comparisons])
    return Report(f"## Memory of a worker, and blocks of its event loop\n\n{text}", comparisons)


async def report_reading(env: BenchEnvironment, config: BenchConfig) -> Report:
    """Report reading the stream, from a server of its own that does not sync."""
    async with EmbeddedServer(env.folder / "reading", appendfsync="no") as server:
        return await compare_readers(server.url, config.rounds, 3 * config.items)


async def report_scaling(env: BenchEnvironment, config: BenchConfig) -> Report:
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
    return Report("## Throughput\n\n" + format_table(header, rows))


def _format_redis(env: BenchEnvironment) -> str:
    return f"\n\n{format_server_costs(env.server_costs.take())}"


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
