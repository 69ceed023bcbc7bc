"""How does a storm go? Senders send, strokes fall, everything comes back, and is judged."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from msgspec import Struct
from redis.exceptions import RedisError

from service.store.connect import AWAY
from tests.faults.hurry import make_due
from tests.faults.oracle import Judgement, judge
from tests.faults.plant import KEYS, Plant
from tests.faults.programs import Program, Store
from tests.faults.reader import GROUP, name_lasting, read_left
from tests.faults.schedule import Stroke, Tempo, draw_strokes
from tests.faults.traffic import Habits, draw_webhooks
from tests.faults.upstream import Upstream

_DOWN_AT_ONCE = 2

Victim = Program | Store | Upstream


class Order(Struct, frozen=True, kw_only=True):
    """What storm is ordered. It ends when every goal is reached: webhooks, kills and seconds.

    ``no_progress_s`` is how long nothing may move at the end before what is left is called stuck:
    longer than the longest backoff of a ticket. ``hurry`` makes due at the end what backs off.
    """

    seed: int
    tempo: Tempo
    per_s: float
    webhooks: int = 0
    kills: int = 0
    seconds: float = 0.0
    habits: Habits = Habits()
    lanes: int = 64
    epoch_s: float = 20.0
    no_progress_s: float = 330.0
    hurry: bool = False


class Outcome(Struct, frozen=True, kw_only=True):
    """What a storm came to. ``strokes`` counts by (role, blow).

    ``recoveries`` are seconds from Redis being back to the next record.
    """

    judgement: Judgement
    strokes: Counter[tuple[str, str]]
    seconds: float
    drained_s: float
    answers: dict[int, int]
    rate_limited: int
    rate_limited_while_closed: int
    facts: Counter[str]
    mistakes: Sequence[str]
    recoveries: Sequence[float]

    @property
    def kills(self) -> int:
        """How many processes were ended by SIGKILL."""
        return count_kills(self.strokes)

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was lost, twice or stuck, and nothing wrote of a mistake."""
        return self.judgement.is_clean and not self.mistakes


def count_kills(strokes: Counter[tuple[str, str]]) -> int:
    """Count the SIGKILLs; that of the upstream is only a cut."""
    return sum(n for (role, blow), n in strokes.items() if blow == "kill" and role != "upstream")


class Storm:
    """Strikes a plant while its senders send."""

    def __init__(self, plant: Plant, order: Order) -> None:
        self.strokes: Counter[tuple[str, str]] = Counter()
        self._plant = plant
        self._order = order
        self._begun = time.monotonic()
        self._is_cut_short = False
        self._falling: set[asyncio.Task[None]] = set()

    def is_enough(self) -> bool:
        """Tell whether every goal is reached."""
        order = self._order
        return self._is_cut_short or (
            self._plant.senders.accepted >= order.webhooks
            and count_kills(self.strokes) >= order.kills
            and time.monotonic() - self._begun >= order.seconds
        )

    def cut_short(self) -> None:
        """Let it be enough now; what was accepted until then is judged."""
        self._is_cut_short = True

    async def rage(self, tell: Callable[[str], None] = lambda _: None) -> Outcome:
        """Strike until it is enough, then let everything come to rest, and judge."""
        plant, order = self._plant, self._order
        webhooks = draw_webhooks(order.seed, order.habits)
        sending = plant.senders.send_all(webhooks, per_s=order.per_s, lanes=order.lanes)
        async with asyncio.TaskGroup() as group:
            group.create_task(sending)
            turning = group.create_task(self._turn_epochs())
            telling = group.create_task(self._tell_progress(tell))
            await self._strike_on()
            plant.senders.stop()
            await asyncio.gather(*self._falling)
            turning.cancel()
            telling.cancel()
        seconds = time.monotonic() - self._begun
        await self._drain()
        return await self._judge(seconds)

    async def _strike_on(self) -> None:
        for stroke in draw_strokes(self._order.seed, self._order.tempo):
            await asyncio.sleep(stroke.after_s)
            while self._count_struck() > _DOWN_AT_ONCE:
                await asyncio.sleep(0.05)
            if self.is_enough():
                return
            for victim in self._choose(stroke):
                task = asyncio.create_task(victim.strike(stroke))
                self._falling.add(task)
                self.strokes[_name_role(victim), stroke.blow] += 1
            self._falling = {task for task in self._falling if not _is_over(task)}

    def _count_struck(self) -> int:
        """Count who is down or still starts: on a slow machine the storm must not stand still."""
        victims: list[Victim] = [*self._plant.list_programs(), self._plant.store]
        return sum(victim.is_struck for victim in victims)

    def _choose(self, stroke: Stroke) -> list[Victim]:
        """Choose who of the role is struck; one who is down already gives way to another role."""
        plant = self._plant
        roles: dict[str, list[Victim]] = {
            "worker": [*plant.workers],
            "door": [*plant.doors],
            "redis": [plant.store],
            "upstream": [plant.upstream],
        }
        everyone: list[Victim] = [*plant.workers, *plant.doors, plant.store]
        if stroke.role == "all":
            return [victim for victim in everyone if not victim.is_struck]
        free = [victim for victim in roles[stroke.role] if not victim.is_struck]
        free = free or [victim for victim in everyone if not victim.is_struck]
        return [free[int(stroke.chance * len(free))]] if free else []

    async def _turn_epochs(self) -> None:
        while True:
            await asyncio.sleep(self._order.epoch_s)
            self._plant.upstream.turn_epoch()

    async def _tell_progress(self, tell: Callable[[str], None]) -> None:
        plant = self._plant
        for minute in count():
            tell(
                f"{minute} min: {plant.senders.accepted} accepted,"
                f" {len(plant.reader.records)} records, {count_kills(self.strokes)} kills,"
                f" {len(plant.list_mistakes())} mistakes"
            )
            await asyncio.sleep(60)

    async def _drain(self) -> None:
        """Wait until nothing waits and all is read, or nothing has moved for too long."""
        self._drained_s = time.monotonic()
        last, moved = (-1, -1), time.monotonic()
        while time.monotonic() - moved < self._order.no_progress_s:
            seen = await self._look()
            if seen == (0, 0):
                break
            if seen != last:
                last, moved = seen, time.monotonic()
            await asyncio.sleep(0.05)
        self._drained_s = time.monotonic() - self._drained_s

    async def _look(self) -> tuple[int, int]:
        """Count what waits, and the records that are not read yet."""
        redis = self._plant.redis
        try:
            if self._order.hurry:
                await make_due(redis, KEYS)
            waiting = await redis.zcard(KEYS.backlog) + await redis.hlen(KEYS.tickets)
            (group,) = await redis.xinfo_groups(KEYS.enriched)
        except (*AWAY, RedisError, ValueError):
            return (-2, -2)
        assert group["name"] == GROUP.encode()
        return (waiting, (group["lag"] or 0) + group["pending"])

    async def _judge(self, seconds: float) -> Outcome:
        plant = self._plant
        await plant.end()
        records = plant.reader.records.values()
        judgement = judge(
            plant.senders.deliveries,
            records,
            await read_left(plant.redis, KEYS),
            may_last=name_lasting(KEYS),
        )
        stats = plant.upstream.simulator.stats
        return Outcome(
            judgement=judgement,
            strokes=self.strokes,
            seconds=seconds,
            drained_s=self._drained_s,
            answers=plant.senders.answers,
            rate_limited=stats.rate_limited,
            rate_limited_while_closed=stats.rate_limited_while_closed,
            facts=plant.count_facts(),
            mistakes=plant.list_mistakes(),
            recoveries=measure_recoveries(plant.store.backs[1:], plant.reader.noted_at),
        )


def measure_recoveries(backs: Sequence[float], noted_at: Sequence[float]) -> list[float]:
    """Give for each moment how long it took until something was noted, if anything was."""
    firsts = (min((at for at in noted_at if at >= back), default=None) for back in backs)
    return [first - back for back, first in zip(backs, firsts, strict=True) if first is not None]


def say(text: str) -> None:
    """Tell a person how it goes."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _name_role(victim: Victim) -> str:
    match victim:
        case Store():
            return "redis"
        case Upstream():
            return "upstream"
        case Program():
            return victim.name.rstrip("0123456789")


def _is_over(task: asyncio.Task[None]) -> bool:
    """Tell whether a stroke is over; raises what went wrong with it."""
    if task.done():
        task.result()
    return task.done()
