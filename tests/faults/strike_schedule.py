"""The schedule of strikes, drawn from a seed. Pure."""

import random
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

TargetRole = Literal["worker", "receiver", "redis", "upstream", "all"]
StrikeAction = Literal["kill", "term", "freeze", "log", "memory", "clock", "forbid", "cut"]

_ROLE_WEIGHTS: dict[TargetRole, int] = {
    "worker": 44,
    "receiver": 24,
    "redis": 18,
    "upstream": 12,
    "all": 4,
}
_ACTION_WEIGHTS: dict[StrikeAction, int] = {"kill": 80, "term": 8, "freeze": 12}
_ROLE_ACTION_WEIGHTS: dict[TargetRole, dict[StrikeAction, int]] = {
    "worker": {"log": 12},
    "receiver": {"log": 12},
    "redis": {"memory": 30, "clock": 30},
    "upstream": {"forbid": 60, "cut": 60},
    "all": {},
}
_SHORT_ACTIONS: frozenset[StrikeAction] = frozenset({"kill", "term", "clock"})
ROLE_ACTIONS = frozenset(action for weights in _ROLE_ACTION_WEIGHTS.values() for action in weights)
"""The actions that only one kind of target has."""

_WAIT_FOR_START_SHARE = 0.85
_STOP_BLOCKED_SHARE = 0.3


class StrikeConfig(Struct, frozen=True, kw_only=True):
    """The timing of strikes in seconds.

    ``interval_s`` is the mean time between two strikes. Every strike that ends by itself lasts
    longer than ``lease_s``. ``max_clock_s`` is how far a clock is set ahead or behind.
    """

    interval_s: float
    lease_s: float
    max_downtime_s: float = 0.8
    max_clock_s: float = 10.0


class Strike(Struct, frozen=True, kw_only=True):
    """One strike, ``delay_s`` after the previous one. ``target_fraction`` picks the process.

    ``kill`` is SIGKILL and ``term`` is SIGTERM, each with a restart after ``duration_s``.
    ``freeze`` is SIGSTOP, with SIGCONT after ``duration_s``. Without ``waits_for_start`` the
    process may be struck again while it still starts.

    For ``duration_s``, ``log`` blocks the log of a process, and with ``stops_blocked`` the process
    then gets SIGTERM. ``memory`` leaves Redis without memory, ``forbid`` answers 403 for some
    projects, and ``cut`` cuts some pages. ``clock`` sets the clock of Redis to ``clock_ahead_s``.
    """

    delay_s: float
    role: TargetRole
    action: StrikeAction
    target_fraction: float
    duration_s: float
    waits_for_start: bool = True
    stops_blocked: bool = False
    clock_ahead_s: float = 0.0


def draw_strikes(seed: int, config: StrikeConfig) -> Iterator[Strike]:
    """Yield strikes without end. Equal seeds and configurations give equal strikes."""
    rng = random.Random(f"strokes {seed}")
    while True:
        (role,) = rng.choices([*_ROLE_WEIGHTS], [*_ROLE_WEIGHTS.values()])
        weights = _ACTION_WEIGHTS | _ROLE_ACTION_WEIGHTS[role]
        (action,) = rng.choices([*weights], [*weights.values()])
        if role == "all":
            action = "kill"
        if action in _SHORT_ACTIONS:
            duration_s = rng.uniform(0.0, config.max_downtime_s)
        else:
            duration_s = rng.uniform(1.2, 2.0) * config.lease_s
        yield Strike(
            delay_s=rng.uniform(0.5, 1.5) * config.interval_s,
            role=role,
            action=action,
            target_fraction=rng.random(),
            duration_s=duration_s,
            waits_for_start=rng.random() < _WAIT_FOR_START_SHARE,
            stops_blocked=rng.random() < _STOP_BLOCKED_SHARE,
            clock_ahead_s=rng.choice((-1, 1)) * rng.uniform(0.5, 1.0) * config.max_clock_s,
        )
