"""Tests of user errors: a sentence with the fix, the right exit code, and no traceback."""

import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import pytest

from service import __version__
from service.cli.main import commands, main
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

NOT_UTF8 = (
    *("failed show a\udcffb", "failed retry a a\udcffb", "failed drop a\udcffb"),
    *("failed list --reason a\udcffb", "send --id a\udcffb", "send --version a\udcffb"),
    "backfill --project p --environment a\udcffb --from 2026-11-01",
    *(
        "sources try a\udcffb -",
        "sources try a - --header a:a\udcffb",
        "simulate --options a\udcffb",
    ),
)
WRONG_URLS = [
    ("send --id x" if number % 2 else "pipeline", f"http://{rest}")
    for number, rest in enumerate(
        (
            *("", "/path", ":80", "@/", "127.0.0.1:99999/", "h:port", "h:-1", "h:0"),
            *("[::1", "[::1]x/", "[zz]/", "a..b/", f"{'a' * 64}/", "h\\@x"),
        )
    )
]

RunCommand = Callable[..., CommandResult]


@pytest.fixture
def run_command(
    command_runner: CommandRunner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> RunCommand:
    """Run a command that ends at once in this very process: there are many."""

    def run(command: str | Sequence[str], **changes: str) -> CommandResult:
        for name, value in (command_runner.env | {"COLUMNS": "80"} | changes).items():
            monkeypatch.setenv(name, value)
        arguments = command.split() if isinstance(command, str) else command
        monkeypatch.setattr(sys, "argv", ["deployment-enricher", *arguments])
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
    ("arguments", "told"),
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
        ("simulate --host a..b", "'--host': 'a..b' is not an address such as 127.0.0.1"),
        ("send --url 127.0.0.1:8080", "'127.0.0.1:8080' does not begin with http:// or https://"),
        ("sources list --url https://", "'https://' has no valid host and port: give a URL"),
        ("sources setup github --url https://h:0", "'https://h:0' has no valid host and port"),
        ("sources list --url https://h/?a=b", "has a query or a fragment: give https://host only"),
        ("sources list --url https://h/#", "has a query or a fragment: give https://host only"),
        *((f"{command} --url {url}", "has no valid host and port") for command, url in WRONG_URLS),
        *((command, "'a\\udcffb' is not UTF-8 text") for command in NOT_UTF8),
    ],
)
def test_wrong_argument_is_a_usage_error(
    run_command: RunCommand, arguments: str, told: str
) -> None:
    """Exit code 2, and a sentence that names the argument."""
    ended = run_command(arguments)
    assert ended.code == 2
    assert told in ended.error_text


@pytest.mark.parametrize("character", ["\n", "\r", "\x00", "\x7f"])
def test_delivery_that_no_header_can_hold_is_a_usage_error(
    run_command: RunCommand, character: str
) -> None:
    """Exit code 2: the id of a delivery is sent in a header."""
    ended = run_command(["send", "--delivery", f"a{character}b", "--id", "x"])
    assert ended.code == 2
    assert "has a control character, which no header can hold" in ended.error_text


@pytest.mark.parametrize("url", ["http://h\nx/", "http://h x/", "http://h/a\tb"])
def test_url_with_a_space_or_a_control_character_is_a_usage_error(
    run_command: RunCommand, url: str
) -> None:
    """Exit code 2: a URL that is used must be the URL that was typed."""
    ended = run_command(["send", "--url", url, "--id", "x"])
    assert ended.code == 2
    assert "has a space or a control character: percent-encode it" in ended.error_text


def test_file_whose_name_is_not_utf8_is_read(run_command: RunCommand, tmp_path: Path) -> None:
    """The system opens any path."""
    path = tmp_path / "body\udcff"
    path.write_text("{}")
    ended = run_command(f"sources try native {path}")
    assert "UTF-8" not in ended.err
    assert "answer " in ended.out


def test_every_command_checks_its_text(run_command: RunCommand) -> None:
    """No argument accepts a text that is not UTF-8, except a path."""
    for arguments, parameter in _list_parameters(commands, ()):
        if parameter.type.name in {"path", "boolean"}:
            continue
        name = [] if isinstance(parameter, click.Argument) else [parameter.opts[0]]
        others = ["a"] * (arguments == ["sources", "try"] and parameter.name == "file")
        ended = run_command([*arguments, *others, *name, "a=:\udcff"])
        assert (ended.code, "Invalid value for" in ended.error_text) == (2, True), arguments


def _list_parameters(
    group: click.Group, arguments: tuple[str, ...]
) -> Iterator[tuple[list[str], click.Parameter]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _list_parameters(command, (*arguments, name))
        else:
            yield from (([*arguments, name], parameter) for parameter in command.params)


@pytest.mark.parametrize(
    "command", ["failed list", "run", "doctor", "tail", "demo", "backfill --from 2026-11-01"]
)
def test_data_directory_of_an_unknown_user_is_a_usage_error(
    run_command: RunCommand, command: str
) -> None:
    """Exit code 2, and a sentence that names the variable."""
    scope = " --project a --environment b" if command.startswith("backfill") else ""
    ended = run_command(f"{command}{scope}", ENRICHER_DATA_DIR="~nobody-of-this-name/x")
    assert ended.code == 2
    assert "ENRICHER_DATA_DIR is '~nobody-of-this-name/x': " in ended.error_text


@pytest.mark.parametrize("command", ["failed list", "tail", "doctor"])
def test_command_with_a_redis_needs_no_home(
    command_runner: CommandRunner,
    run_command: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    """A container may run under a number without a name, and without HOME."""
    for name in ("HOME", "ENRICHER_DATA_DIR"):
        command_runner.env.pop(name)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # KeyError, as for an unknown number
    ended = run_command(
        command,
        ENRICHER_REDIS_URL="redis://127.0.0.1:1",
        ENRICHER_LAUNCHDARKLY_URL="http://127.0.0.1:1",
    )
    assert ended.code == 1
    assert "connecting to 127.0.0.1:1" in ended.out + ended.err
    assert run_command(command, ENRICHER_REDIS_URL="").code == 2


@pytest.mark.parametrize(
    ("arguments", "changes", "told"),
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
    run_command: RunCommand, arguments: str, changes: dict[str, str], told: str
) -> None:
    """Exit code 2, and a sentence that names the variable and the fix."""
    ended = run_command(arguments, **changes)
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
