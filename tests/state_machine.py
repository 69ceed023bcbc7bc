"""A runner for Hypothesis state machines: the same run each time, with failures minimized."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

_SHORT_TIMEOUT_S, _LONG_TIMEOUT_S = 300, 3600  # Hypothesis minimizes a failure first

Test = Callable[..., None]


def with_examples(short: tuple[int, int], long: tuple[int, int]) -> Callable[[Test], Test]:
    """Run a test with examples and steps, and with more of them under ``-m long``."""
    # A timeout of the function itself would go before that of the long run.
    short_run = pytest.param(*short, marks=pytest.mark.timeout(_SHORT_TIMEOUT_S))
    long_run = pytest.param(*long, marks=[pytest.mark.long, pytest.mark.timeout(_LONG_TIMEOUT_S)])
    parametrize: Callable[[Test], Test] = pytest.mark.parametrize(
        ("examples", "steps"), [short_run, long_run]
    )
    return parametrize


def run_machine(
    model: Callable[[str], RuleBasedStateMachine], url: str, *, examples: int, steps: int
) -> None:
    """Run a model against the Redis at ``url``."""
    factory: Any = partial(model, url)  # any callable without arguments
    run_state_machine_as_test(
        factory,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
