"""Tests of user errors: a sentence with the fix, the right exit code, and no traceback."""

import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service import __version__
from service.cli.main import main
from service.settings import list_settings
from service.store.connect import open_client
from service.store.embedded import EmbeddedServer
from tests.cli.shell import (
    PASSWORD,
    CommandResult,
    CommandRunner,
    processes_using,
    run_concurrently,
)

COMMANDS = (
    *("run", "serve", "work", "demo", "simulate", "send", "tail", "sources"),
    *("failed", "doctor", "settings"),
)
NATIVE = "--project default --environment production --application billing-service --version 1.2.3"

RunCommand = Callable[..., CommandResult]


@pytest.fixture
def run_command(
    command_runner: CommandRunner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> RunCommand:
    """Run a command that ends at once in this very process: there are many."""

    def run(command: str, **changes: str) -> CommandResult:
        for name, value in (command_runner.env | {"COLUMNS": "80"} | changes).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["deployment-enricher", *command.split()])
        with pytest.raises(SystemExit) as exit_info:
            main()
        return CommandResult(int(exit_info.value.code or 0), *capsys.readouterr())

    return run


def test_help_names_every_command_and_the_exit_codes(run_command: RunCommand) -> None:
    """The help of the program names every command and the exit codes."""
    ended = run_command("--help")
    assert (ended.code, ended.err) == (0, "")
    assert all(f"\n  {command} " in ended.out for command in COMMANDS)
    assert "Exit codes: 0 " in ended.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_fits_80_columns(run_command: RunCommand, command: str) -> None:
    """On 80 columns."""
    ended = run_command(f"{command} --help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: deployment-enricher {command} [OPTIONS]")
    assert max(map(len, ended.out.splitlines())) <= 80


@pytest.mark.parametrize("what", ["list", "try", "setup"])
def test_every_option_of_sources_has_help(run_command: RunCommand, what: str) -> None:
    """What it does, and what each argument is."""
    ended = run_command(f"sources {what} --help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: deployment-enricher sources {what} [OPTIONS]")
    options = ended.out.partition("Options:\n")[2].partition("\n\n")[0].splitlines()
    assert all(re.fullmatch(r"  -.*\S  +[A-Z].*", option) for option in options), options
    assert "Exit codes: 0 " in ended.out


async def test_version_is_printed_alone(command_runner: CommandRunner) -> None:
    """So that a script can read it."""
    assert await command_runner.run("--version") == CommandResult(0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "Usage: deployment-enricher [OPTIONS] COMMAND"),
        ("frobnicate", "No such command 'frobnicate'"),
        ("tail --frobnicate", "No such option '--frobnicate'"),
        ("demo --events many", "'--events': 'many' is not a valid integer"),
        ("demo --per-second 0", "'--per-second': 0.0 is not in the range 0.1<=x<=1000000"),
        ("demo --quota 0", "'--quota': 0 is not in the range 10<=x<=1000000"),
        ("simulate --port 65536", "'--port': 65536 is not in the range 0<=x<=65535"),
        ("simulate --options {", "--options: Input data was truncated"),
        ('simulate --options {"quta":{}}', "--options: Object contains unknown field `quta`"),
        ("send --url 127.0.0.1:8080", "'127.0.0.1:8080' does not begin with http:// or https://"),
    ],
)
def test_wrong_argument_is_a_usage_error(run_command: RunCommand, words: str, told: str) -> None:
    """Exit code 2, and a sentence that names the word."""
    ended = run_command(words)
    assert ended.code == 2
    assert told in ended.error_text


@pytest.mark.parametrize(
    ("words", "changes", "told"),
    [
        ("run", {"LAUNCHDARKLY_ACCESS_TOKEN": ""}, "LAUNCHDARKLY_ACCESS_TOKEN is not set"),
        ("run", {"ENRICHER_WEBHOOK_SECRET": ""}, "set ENRICHER_WEBHOOK_SECRET, or ENRICHER_SOURC"),
        ("run", {"ENRICHER_PORT": "http"}, "ENRICHER_PORT is 'http': give a whole number"),
        ("run", {"ENRICHER_PROT": "1"}, "no setting ENRICHER_PROT; did you mean ENRICHER_PORT?"),
        ("run", {"ENRICHER_SOURCES": "/nowhere.toml"}, "ENRICHER_SOURCES cannot be read: "),
        ("run", {"ENRICHER_LAUNCHDARKLY_URL": "launchdarkly"}, "LAUNCHDARKLY_URL is 'launchdarkl"),
        ("serve", {}, "ENRICHER_REDIS_URL is not set: `serve` shares a Redis"),
        ("work", {}, "ENRICHER_REDIS_URL is not set: `work` shares a Redis"),
        (
            "work",
            {"ENRICHER_REDIS_URL": f"http://:{PASSWORD}@host"},
            "is not a Redis URL: use redis://",
        ),
        ("send", {"ENRICHER_WEBHOOK_SECRET": ""}, "an event cannot be signed"),
        ("send", {"ENRICHER_WEBHOOK_SECRET": " \n"}, "an event cannot be signed"),
        ("pipeline", {"ENRICHER_WEBHOOK_SECRET": " \n"}, "an event cannot be signed"),
    ],
)
def test_wrong_setting_is_a_usage_error(
    run_command: RunCommand, words: str, changes: dict[str, str], told: str
) -> None:
    """Exit code 2, and a sentence that names the variable and the fix."""
    ended = run_command(words, **changes)
    assert ended.code == 2
    assert told in ended.error_text


def test_settings_are_listed_even_if_one_is_wrong(run_command: RunCommand) -> None:
    """The complaint of every other command leads here; what is set is not shown."""
    ended = run_command("settings", ENRICHER_PORT="x", ENRICHER_WEBHOOK_SECRET=PASSWORD)
    assert (ended.code, ended.err) == (0, "")
    assert all(f"\n{name}" in f"\n{ended.out}" for name, _, _ in list_settings())
    assert PASSWORD not in ended.out


async def test_invalid_sources_file_is_reported_with_the_mistake(
    command_runner: CommandRunner, tmp_path: Path
) -> None:
    """Exit code 2; not TOML, a name that does not exist, a secret that is not there."""
    written = ("[[source]\n", '[[source]]\nname="a"\npreset="githib"\n')
    missing = '[[source]]\nname="a"\npreset="github"\nsecrets=["env:GONE"]\n'
    paths = []
    for number, text in enumerate((*written, missing)):
        paths.append(tmp_path / f"{number}.toml")
        paths[-1].write_text(text)
    ends = await run_concurrently(
        *(command_runner.run("run", ENRICHER_SOURCES=str(path)) for path in paths)
    )
    assert [ended.code for ended in ends] == [2, 2, 2]
    for ended, message in zip(ends, ("not TOML", "did you mean 'github'", "env:GONE"), strict=True):
        assert message in ended.error_text


async def test_unreachable_server_is_reported(command_runner: CommandRunner) -> None:
    """Exit code 1: nobody at the receiver, no Redis for what cannot wait for it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and not listening
        port = silent.getsockname()[1]
        redis = {"ENRICHER_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:{port}"}
        sent, own, other, demo = await run_concurrently(
            command_runner.run(f"send --url http://127.0.0.1:{port}/webhooks/native {NATIVE}"),
            command_runner.run("tail"),
            command_runner.run("tail", **redis),
            command_runner.run("demo --events 1", **redis),
        )
    assert [ended.code for ended in (sent, own, other, demo)] == [1, 1, 1, 1]
    assert "nobody answers: " in sent.error_text
    assert all("Redis is away" in ended.error_text for ended in (own, other, demo))


async def test_occupied_port_is_reported_with_the_setting(command_runner: CommandRunner) -> None:
    """Exit code 1 and which setting to change; the server that was started for it is gone."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run, simulate = await run_concurrently(
            command_runner.run("run", ENRICHER_PORT=port),
            command_runner.run(f"simulate --port {port}"),
        )
    assert (run.code, simulate.code) == (1, 1)
    assert f"Address already in use: 127.0.0.1, port {port}" in simulate.error_text
    (message,) = [line for line in run.err.splitlines() if line.startswith("Error: ")]
    assert "ENRICHER_PORT" in message
    assert "Traceback" not in run.err
    assert processes_using(command_runner.data) == []


async def test_unusable_data_directory_is_reported_with_the_setting(
    command_runner: CommandRunner, tmp_path: Path
) -> None:
    """Exit code 1, with the path and the setting."""
    (tmp_path / "file").write_text("")
    run, demo = await run_concurrently(
        *(
            command_runner.run(command, ENRICHER_DATA_DIR=str(tmp_path / "file" / "data"))
            for command in ("run", "demo")
        )
    )
    for ended in (run, demo):
        assert ended.code == 1
        assert f"{tmp_path / 'file'}" in ended.error_text
        assert "ENRICHER_DATA_DIR" in ended.error_text


async def test_unfit_redis_is_refused_with_the_fix(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """Exit code 1: without a disk with the fix, with a wrong password without showing it."""
    client = open_client(server.url)
    await client.config_set("appendonly", "no")
    ends = await run_concurrently(
        *(
            command_runner.run(command, ENRICHER_REDIS_URL=server.url)
            for command in ("serve", "demo")
        )
    )
    assert [ended.code for ended in ends] == [1, 1]
    assert all("`--appendonly yes --appendfsync always`" in ended.error_text for ended in ends)

    await client.config_set("requirepass", "right")
    url = f"{server.url}?password={PASSWORD}"
    ends = await run_concurrently(
        *(
            command_runner.run(command, ENRICHER_REDIS_URL=url)
            for command in ("run", "work", "tail")
        )
    )
    await client.aclose()
    assert [ended.code for ended in ends] == [1] * 3
    assert all("invalid username-password pair" in ended.error_text for ended in ends)


async def test_second_process_on_a_data_directory_is_refused(command_runner: CommandRunner) -> None:
    """The second is refused at once, and the first does not notice."""
    first = await command_runner.start("run", ready_pattern="receiver_started")
    second = await command_runner.run("run")
    assert second.code == 1
    assert f"another process runs a server on {command_runner.data}" in second.error_text
    assert await first.stop() == 0
