"""The command line: the group of all commands, and what their errors become."""

import io
import os
import sys
from functools import partial
from typing import IO, Any, TextIO

import click

from service import __version__
from service.accept.sources import SourceError
from service.cli.backfill import backfill_command
from service.cli.container_problem import hold, read_hold_s, write_problem
from service.cli.demo import demo_command, pipeline_command
from service.cli.doctor import doctor_command
from service.cli.failed import failed_commands
from service.cli.parameters import require_utf8
from service.cli.reload import read_file_states
from service.cli.run import (
    run_command,
    send_command,
    serve_command,
    simulate_command,
    work_command,
)
from service.cli.sources import sources_commands
from service.cli.tail import tail_command
from service.cli.terminal import (
    EXIT_CODES,
    EXIT_FAILURE,
    EXIT_USAGE_ERROR,
    EXPECTED_ERRORS,
    explain_error,
)
from service.contracts import CONTRACTS, render_contract
from service.log import escape_unprintable
from service.settings import SettingsError, list_settings

_PROGRAM = "deployment-enricher"
_ROLES = {"run", "serve", "work"}
_CONTRACT_NAMES = [*CONTRACTS]


class CommandError(click.ClickException):
    """Something needed is away or refuses: one sentence, and exit code 1."""

    exit_code = EXIT_FAILURE
    is_shown = False

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message, once."""
        if not self.is_shown:
            super().show(file)

    def format_message(self) -> str:
        """Return the message without characters that move a terminal's cursor."""
        return "\n".join(escape_unprintable(line) for line in self.message.splitlines())


class SettingError(CommandError):
    """A mistake in a setting or in the file of sources: one sentence, and exit code 2."""

    exit_code = EXIT_USAGE_ERROR


class CommandGroup(click.Group):
    """Commands in the order of their registration, whose return value is the exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the names in the order of registration."""
        return list(self.commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, whose text arguments must then be UTF-8."""
        require_utf8(cmd)
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command that was typed and exit with its code; raises CommandError."""
        try:
            exit_code: int | None = super().invoke(ctx)
        except (SettingsError, SourceError) as error:
            raise _hold_role(ctx, SettingError(str(error))) from error
        except BrokenPipeError:
            exit_code = _silence_stdout()
        except EXPECTED_ERRORS as error:
            raise _hold_role(ctx, CommandError(explain_error(error))) from error
        except KeyboardInterrupt:
            exit_code = 0
        ctx.exit(exit_code or 0)


def _hold_role(ctx: click.Context, error: CommandError) -> CommandError:
    """Return how a command ends that cannot run; in a container, show why and keep a role first."""
    hold_s = read_hold_s(os.environ)
    if not hold_s or ctx.invoked_subcommand not in _ROLES:
        return error
    error.show()
    sys.stderr.flush()
    write_problem(error.format_message())
    hold(partial(read_file_states, os.environ), hold_s=hold_s)
    error.is_shown = True
    return error


def _silence_stdout() -> int:
    """Discard further output after the reader has closed it; Python's exit would complain too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@click.group(
    cls=CommandGroup,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, message="%(version)s")
def commands() -> None:
    """Turn signed deployment webhooks into enriched records on a Redis stream.

    Settings are environment variables; `deployment-enricher settings` lists them.

    \b
    Completion of words in bash (zsh, fish: zsh_source, fish_source):
      eval "$(_DEPLOYMENT_ENRICHER_COMPLETE=bash_source deployment-enricher)"
    """  # noqa: D301 - click reads \b as: do not wrap this paragraph


@click.command("schema", epilog=f"FILE: {', '.join(_CONTRACT_NAMES)}. {EXIT_CODES}")
@click.argument(
    "contract", type=click.Choice(_CONTRACT_NAMES), default=_CONTRACT_NAMES[0], metavar="[FILE]"
)
def schema_command(contract: str) -> None:
    """Print a contract for other programs: JSON Schema or API."""
    click.echo(render_contract(contract), nl=False)


@click.command("settings", epilog=EXIT_CODES)
def settings_command() -> None:
    """Print every setting with its default and its meaning."""
    click.echo("Times are seconds; = is the default.\n")
    for variable, default, meaning in list_settings():
        click.echo(f"{variable}{f' = {default}' if default else ''}\n    {meaning}")


for command in (
    *(run_command, serve_command, work_command, demo_command, simulate_command),
    *(pipeline_command, send_command, tail_command, sources_commands, failed_commands),
    *(backfill_command, doctor_command, schema_command, settings_command),
):
    commands.add_command(command)


def _open_missing_streams() -> None:
    """Open the standard streams that were closed; else a socket gets the number of one of them.

    What a library prints to stderr would then go into that socket.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is fd
    sys.stdout = sys.stdout or _open_null_stream(1)
    sys.stderr = sys.stderr or _open_null_stream(2)


def _open_null_stream(fd: int) -> TextIO:
    return os.fdopen(fd, "w", encoding="utf-8", closefd=False)


def main() -> None:
    """Run the command that was typed."""
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no encoding may end a command
    commands(prog_name=_PROGRAM)


if __name__ == "__main__":
    main()
