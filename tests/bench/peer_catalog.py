"""The peers: other queues, each with its environment and its best configuration."""

from pathlib import Path

from msgspec import Struct

import run
from tests.bench.bench_env import BenchEnvironment
from tests.bench.contestants import Contestant
from tests.bench.processes import MeasuredProcess
from tests.bench.webhooks import ReceiverContestant
from tests.environments import ensure_environment

_TASKIQ = "taskiq worker tests.bench.peers.with_taskiq:broker --workers 1 --max-async-tasks 32"
# The thread pool is the cheapest here: solo costs 1.1, prefork 1.5, gevent 1.5 times as much.
_CELERY = "celery -A tests.bench.peers.with_celery worker -P threads -c 8 -l ERROR"
_CELERY_QUIET = "--without-gossip --without-mingle --without-heartbeat"
_UVICORN = "--loop uvloop --http httptools --no-access-log --port 0"


class Peers(Struct, frozen=True):
    """The installed peers, and the reason for each unavailable one."""

    contestants: tuple[Contestant, ...]
    receivers: tuple[ReceiverContestant, ...]
    unavailable: dict[str, str]


def install_peers() -> Peers:
    """Install every peer that can be installed."""
    contestants: list[Contestant] = []
    receivers: list[ReceiverContestant] = []
    unavailable: dict[str, str] = {}
    for environment, names, frameworks in (
        ("bench-arq", ("arq",), ("arq",)),
        ("bench", ("SAQ", "taskiq", "streaq", "docket", "Celery"), ("taskiq",)),
    ):
        try:
            python = ensure_environment(environment)
        except (run.SetupError, OSError) as error:
            unavailable |= dict.fromkeys(
                (*names, *(f"FastAPI + {framework}" for framework in frameworks)), str(error)
            )
            continue
        contestants += [build_peer(name, python) for name in names]
        receivers += [build_peer_receiver(framework, python) for framework in frameworks]
    return Peers(tuple(contestants), tuple(receivers), unavailable)


def build_peer(name: str, python: Path) -> Contestant:
    """Return one peer with its worker command and its fill command."""
    module = f"tests.bench.peers.with_{name.lower()}"
    commands = {
        "taskiq": f"{_TASKIQ} --log-level ERROR --no-parse",
        "Celery": f"{_CELERY} {_CELERY_QUIET}",
    }

    async def fill(env: BenchEnvironment, _: MeasuredProcess, numbers: range) -> None:
        command = ("-m", module, "fill", str(numbers.start), str(len(numbers)))
        process = env.start(python, command, name=f"fill-{name}")
        try:
            await process.wait_for_log("filled")
        finally:
            env.stop(process)

    return Contestant(
        name=name,
        command=("-m", *commands.get(name, f"{module} work").split()),
        ready_text="ready",
        fill=fill,
        python=python,
    )


def build_peer_receiver(framework: str, python: Path) -> ReceiverContestant:
    """Return FastAPI with one of the queues behind it."""

    async def count_accepted(env: BenchEnvironment) -> int:
        if framework == "taskiq":
            return int(await env.redis.xlen("taskiq"))
        return int(await env.redis.zcard("arq:queue"))

    return ReceiverContestant(
        name=f"FastAPI + {framework}",
        command=("-m", "uvicorn", f"tests.bench.peers.receiver_{framework}:app", *_UVICORN.split()),
        url_prefix="running on ",
        count_accepted=count_accepted,
        python=python,
    )
