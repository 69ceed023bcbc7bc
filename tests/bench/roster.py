"""Which peers are there, in which environment, and how is each started at its best?"""

from pathlib import Path

from msgspec import Struct

import run
from tests.bench.contestants import Contestant
from tests.bench.environments import set_up
from tests.bench.processes import Process
from tests.bench.stand import Stand
from tests.bench.webhooks import Door

_TASKIQ = "taskiq worker tests.bench.peers.with_taskiq:broker --workers 1 --max-async-tasks 32"
# Of its pools, threads cost the least here: solo 1.1, prefork 1.5, gevent 1.5 times as much.
_CELERY = "celery -A tests.bench.peers.with_celery worker -P threads -c 8 -l ERROR"
_QUIET = "--without-gossip --without-mingle --without-heartbeat"
_UVICORN = "--loop uvloop --http httptools --no-access-log --port 0"


class Peers(Struct, frozen=True):
    """Who could be installed, and of whom could not, why."""

    contestants: tuple[Contestant, ...]
    doors: tuple[Door, ...]
    absent: dict[str, str]


def gather_peers() -> Peers:
    """Install every peer and say how it is run."""
    contestants: list[Contestant] = []
    doors: list[Door] = []
    absent: dict[str, str] = {}
    for environment, names, frameworks in (
        ("bench-arq", ("arq",), ("arq",)),
        ("bench", ("SAQ", "taskiq", "streaq", "docket", "Celery"), ("taskiq",)),
    ):
        try:
            python = set_up(environment)
        except (run.SetupError, OSError) as error:
            absent |= dict.fromkeys(
                (*names, *(f"FastAPI + {each}" for each in frameworks)), str(error)
            )
            continue
        contestants += [make_peer(name, python) for name in names]
        doors += [make_door(each, python) for each in frameworks]
    return Peers(tuple(contestants), tuple(doors), absent)


def make_peer(name: str, python: Path) -> Contestant:
    """Give one peer: its worker, and how its queue is filled."""
    module = f"tests.bench.peers.with_{name.lower()}"
    own = {
        "taskiq": f"{_TASKIQ} --log-level ERROR --no-parse",
        "Celery": f"{_CELERY} {_QUIET}",
    }

    async def fill(stand: Stand, _: Process, numbers: range) -> None:
        words = ("-m", module, "fill", str(numbers.start), str(len(numbers)))
        filling = stand.start(python, words, name=f"fill-{name}")
        try:
            await filling.wait_for("filled")
        finally:
            stand.end(filling)

    return Contestant(
        name=name,
        words=("-m", *own.get(name, f"{module} work").split()),
        ready="ready",
        fill=fill,
        python=python,
    )


def make_door(framework: str, python: Path) -> Door:
    """Give FastAPI with one of the queues behind it."""

    async def count_kept(stand: Stand) -> int:
        if framework == "taskiq":
            return int(await stand.redis.xlen("taskiq"))
        return int(await stand.redis.zcard("arq:queue"))

    return Door(
        name=f"FastAPI + {framework}",
        words=("-m", "uvicorn", f"tests.bench.peers.door_{framework}:app", *_UVICORN.split()),
        url="running on ",
        kept=count_kept,
        python=python,
    )
