"""The schedule of strikes, drawn from a seed. Pure."""

import random
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

TargetRole = Literal["worker", "receiver", "redis", "upstream", "all"]
StrikeAction = Literal["kill", "term", "freeze"]

_ROLE_WEIGHTS: dict[TargetRole, int] = {
    "worker": 44,
    "receiver": 24,
    "redis": 18,
    "upstream": 10,
    "all": 4,
}
_ACTION_WEIGHTS: dict[StrikeAction, int] = {"kill": 80, "term": 8, "freeze": 12}

_WAIT_FOR_START_SHARE = 0.85


class StrikeConfig(Struct, frozen=True, kw_only=True):
    """The timing of strikes in seconds.

    ``interval_s`` is the mean time between two strikes. Every freeze lasts longer than ``lease_s``.
    """

    interval_s: float
    lease_s: float
    max_downtime_s: float = 0.8


class Strike(Struct, frozen=True, kw_only=True):
    """One strike, ``delay_s`` after the previous one. ``target_fraction`` picks the process.

    ``kill`` is SIGKILL and ``term`` is SIGTERM, each with a restart after ``duration_s``.
    ``freeze`` is SIGSTOP, with SIGCONT after ``duration_s``. Without ``waits_for_start`` the
    process may be struck again while it still starts.
    """

    delay_s: float
    role: TargetRole
    action: StrikeAction
    target_fraction: float
    duration_s: float
    waits_for_start: bool = True


def draw_strikes(seed: int, config: StrikeConfig) -> Iterator[Strike]:
    """Yield strikes without end. Equal seeds and configurations give equal strikes."""
    rng = random.Random(f"strokes {seed}")
    while True:
        (role,) = rng.choices([*_ROLE_WEIGHTS], [*_ROLE_WEIGHTS.values()])
        (action,) = rng.choices([*_ACTION_WEIGHTS], [*_ACTION_WEIGHTS.values()])
        if role == "all":
            action = "kill"
        if action == "freeze":
            duration_s = rng.uniform(1.2, 2.0) * config.lease_s
        else:
            duration_s = rng.uniform(0.0, config.max_downtime_s)
        yield Strike(
            delay_s=rng.uniform(0.5, 1.5) * config.interval_s,
            role=role,
            action=action,
            target_fraction=rng.random(),
            duration_s=duration_s,
            waits_for_start=rng.random() < _WAIT_FOR_START_SHARE,
        )
