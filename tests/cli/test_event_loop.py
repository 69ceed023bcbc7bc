"""Tests of the event loops: which command runs on which, and that a signal stops both."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from click import Command

from service.cli import event_loop, signals
from service.cli.run import run_command, serve_command, work_command
from service.cli.signals import run_async, run_service

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize(
    ("decorator", "package"), [(run_async, "asyncio"), (run_service, "uvloop")]
)
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_stops_a_command_on_each_loop(
    decorator: Callable[..., Callable[[], int]], package: str, number: signal.Signals
) -> None:
    """The command ends with 0, and the handlers of the signals are those from before."""
    stopped_on: list[str] = []
    handlers = [signal.getsignal(known) for known in STOP_SIGNALS]

    async def command() -> int:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            stopped_on.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])
        return 1

    assert decorator(command)() == 0
    assert stopped_on == [package]
    assert [signal.getsignal(known) for known in STOP_SIGNALS] == handlers


@pytest.mark.parametrize("command", [run_command, serve_command, work_command])
def test_service_runs_on_its_own_loop(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that run for long have uvloop's."""
    loops: list[str] = []

    def run(runner: asyncio.Runner, coroutine: Coroutine[Any, Any, int]) -> int:
        loops.append(type(runner.get_loop()).__module__)
        coroutine.close()
        return 0

    monkeypatch.setattr(asyncio.Runner, "run", run)
    monkeypatch.setattr(signals, "_run_until_signalled", lambda command: command)
    assert command.callback is not None
    assert command.callback() == 0
    assert loops == ["uvloop"]


def test_service_runs_on_asyncio_where_uvloop_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPy, and other systems."""
    monkeypatch.setattr(event_loop, "find_spec", lambda _: None)
    loop = event_loop.new_event_loop()
    loop.close()
    assert isinstance(loop, asyncio.BaseEventLoop)
