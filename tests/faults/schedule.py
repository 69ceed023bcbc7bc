"""Who is struck next, how, and for how long? Drawn from a seed: thinks only."""

import random
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

Role = Literal["worker", "door", "redis", "upstream", "all"]
Blow = Literal["kill", "term", "freeze"]

_ROLES: dict[Role, int] = {"worker": 44, "door": 24, "redis": 18, "upstream": 10, "all": 4}
_BLOWS: dict[Blow, int] = {"kill": 80, "term": 8, "freeze": 12}

_SPARED = 0.85


class Tempo(Struct, frozen=True, kw_only=True):
    """How fast it goes (s): between two strokes, and how long a lease is that a freeze outlasts."""

    every_s: float
    lease_s: float
    away_s: float = 0.8


class Stroke(Struct, frozen=True, kw_only=True):
    """One stroke, so long after the one before. ``chance`` picks one of the role's processes.

    ``kill`` is SIGKILL and ``term`` SIGTERM, each with a restart after ``lasts_s``; ``freeze`` is
    SIGSTOP, and SIGCONT after ``lasts_s``. Who is not ``spared`` may be struck again while it
    still starts.
    """

    after_s: float
    role: Role
    blow: Blow
    chance: float
    lasts_s: float
    spared: bool = True


def draw_strokes(seed: int, tempo: Tempo) -> Iterator[Stroke]:
    """Draw strokes without end, the same ones for the same seed and tempo."""
    dice = random.Random(f"strokes {seed}")
    while True:
        (role,) = dice.choices([*_ROLES], [*_ROLES.values()])
        (blow,) = dice.choices([*_BLOWS], [*_BLOWS.values()])
        if role == "all":
            blow = "kill"
        if blow == "freeze":
            lasts_s = dice.uniform(1.2, 2.0) * tempo.lease_s
        else:
            lasts_s = dice.uniform(0.0, tempo.away_s)
        yield Stroke(
            after_s=dice.uniform(0.5, 1.5) * tempo.every_s,
            role=role,
            blow=blow,
            chance=dice.random(),
            lasts_s=lasts_s,
            spared=dice.random() < _SPARED,
        )
