"""What can be typed? The command line: arguments in, exit code out."""

import argparse
import asyncio
import contextlib
import io
import os
import random
import signal
import sys
import uuid
from collections.abc import Callable, Coroutine

from msgspec.structs import replace

from service import __version__
from service.accept.sources import SourceError
from service.cli import backfill, doctor, failed, run, sources
from service.cli.demo import build_simulator_options, run_demo, run_pipeline
from service.cli.preconditions import (
    configure_log,
    open_sources_with_sighup,
    read_sources,
    require_access_token,
    require_redis,
    require_simulator,
    require_webhook_secret,
)
from service.cli.terminal import (
    EXPECTED_ERRORS,
    add_backfill_arguments,
    add_demo_arguments,
    add_doctor_arguments,
    add_failed_arguments,
    add_pipeline_arguments,
    add_schema_arguments,
    add_send_arguments,
    add_simulate_arguments,
    add_sources_arguments,
    add_tail_arguments,
    explain_error,
)
from service.contracts import render_contract
from service.log import Log, build_log, escape_unprintable
from service.settings import Secret, Settings, SettingsError, list_settings, read_settings
from service.simulate.options import Options, apply_changes
from service.simulate.pipeline import SendRate

_EXIT_USAGE_ERROR, _EXIT_FAILURE = 2, 1
_MAX_SEED = 1_000_000

_EPILOG = """\
exit codes: 0 ended as asked, 1 something needed is away or refuses, 2 a mistake in what was typed
or set. Settings are environment variables; `deployment-enricher settings` lists them.
"""

CommandHandler = Callable[[argparse.Namespace, Settings], Coroutine[object, object, int | None]]
LoggedCommandHandler = Callable[[argparse.Namespace, Settings, Log], Coroutine[object, object, int]]


def main() -> None:
    """Run the command that was typed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no encoding may end a command
    arguments = _build_parser().parse_args()
    try:
        settings = arguments.read(os.environ)
        exit_code = asyncio.run(_run_until_signalled(arguments.act(arguments, settings)))
    except (SettingsError, SourceError) as error:
        exit_code = _print_error(str(error), _EXIT_USAGE_ERROR)
    except BrokenPipeError:
        exit_code = _silence_stdout()
    except EXPECTED_ERRORS as error:
        exit_code = _print_error(explain_error(error), _EXIT_FAILURE)
    except KeyboardInterrupt:
        exit_code = 0
    sys.exit(exit_code)


async def _run_until_signalled(command: Coroutine[object, object, int | None]) -> int:
    """Run to the end, or until SIGINT or SIGTERM; a second signal cuts even the stopping short."""
    task = asyncio.ensure_future(command)
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        return await task or 0
    return 0


def _print_error(reason: str, exit_code: int) -> int:
    message = "\n".join(escape_unprintable(line) for line in reason.splitlines())
    sys.stderr.write(f"deployment-enricher: {message}\n")
    return exit_code


def _silence_stdout() -> int:
    """Whoever read our output has enough; Python must not complain of it at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deployment-enricher",
        description="A signed deployment webhook in, one enriched record on a Redis stream out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, handler: CommandHandler, description: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, help=description, description=description)
        command.set_defaults(act=handler, read=read_settings)
        return command

    add("run", _run, "take webhooks and work on them, in one process")
    add("serve", _serve, "take webhooks only (needs ENRICHER_REDIS_URL)")
    add("work", _work, "work on the backlog only (needs ENRICHER_REDIS_URL)")
    add_demo_arguments(
        add("demo", _demo, "see it work: a pipeline and a LaunchDarkly are simulated")
    )
    add_simulate_arguments(add("simulate", _simulate, "a LaunchDarkly on the table, for CI"))
    add_pipeline_arguments(add("pipeline", _pipeline, "deploy for ever, for demos"))
    add_send_arguments(add("send", _send, "sign one event and post it"))
    add_tail_arguments(add("tail", _tail, "follow the output stream"))
    listed = "look at the sources of webhooks, and try one"
    sources_parser = add("sources", sources.run_sources, listed)
    add_sources_arguments(sources_parser)
    run_failed = _with_log(failed.run_failed)
    add_failed_arguments(
        add("failed", run_failed, "look at what was given up; retry it, or drop it")
    )
    run_backfill = _with_log(backfill.run_backfill)
    add_backfill_arguments(
        add("backfill", run_backfill, "queue what a past time has that we missed")
    )
    run_doctor = _with_log(doctor.run_doctor)
    add_doctor_arguments(
        add("doctor", run_doctor, "say what is wrong, how to mend it; 1 if anything is")
    )
    contract = add("schema", _schema, "print what others may rely on, for machines")
    add_schema_arguments(contract)
    listing = add("settings", _settings, "list every setting, its default and its meaning")
    _use_default_settings(contract, listing)
    return parser


def _use_default_settings(*parsers: argparse.ArgumentParser) -> None:
    """Let commands run also when a setting is wrong."""
    for parser in parsers:
        parser.set_defaults(read=lambda _: Settings())


def _with_log(handler: LoggedCommandHandler) -> CommandHandler:
    """Hand a command the log that the settings ask for."""
    return lambda arguments, settings: handler(arguments, settings, configure_log(settings))


async def _run(_: argparse.Namespace, settings: Settings) -> None:
    require_access_token(settings)
    log = configure_log(settings)
    await run.run(settings, open_sources_with_sighup(log), log)


async def _serve(_: argparse.Namespace, settings: Settings) -> None:
    require_redis(settings, "serve")
    log = configure_log(settings)
    await run.serve(settings, open_sources_with_sighup(log), log)


async def _work(_: argparse.Namespace, settings: Settings) -> None:
    require_redis(settings, "work")
    require_access_token(settings)
    await run.work(settings, configure_log(settings))


async def _demo(arguments: argparse.Namespace, settings: Settings) -> None:
    # A Redis that is not ours may know the deployments of an earlier demo.
    default_seed = random.randrange(_MAX_SEED) if settings.redis_url else 1
    seed = default_seed if arguments.seed is None else arguments.seed
    await run_demo(
        replace(settings, port=0, sources=""),
        build_simulator_options(seed=seed, calls_per_window=arguments.quota),
        rate=SendRate(per_second=arguments.per_second, max_events=arguments.events),
        log=build_log(level="error"),
        build_sources=lambda secret: read_sources(
            replace(settings, sources="", webhook_secret=Secret(secret)), os.environ
        ),
    )


async def _simulate(arguments: argparse.Namespace, settings: Settings) -> None:
    options = apply_changes(Options(), os.fsencode(arguments.options))
    if isinstance(options, str):
        raise SettingsError(f"--options: {options}")
    log = configure_log(settings)
    await run.simulate(options, host=arguments.host, port=arguments.port, log=log)


async def _pipeline(arguments: argparse.Namespace, settings: Settings) -> None:
    secret = require_webhook_secret(settings)
    require_access_token(settings)
    require_simulator(settings)
    rate = SendRate(per_second=arguments.per_second, max_events=arguments.events)
    log = configure_log(settings)
    await run_pipeline(settings, webhook_url=arguments.url, secret=secret, rate=rate, log=log)


async def _send(arguments: argparse.Namespace, settings: Settings) -> int:
    secret = require_webhook_secret(settings)
    fields = {
        "deploymentId": arguments.id,
        "projectKey": arguments.project,
        "environmentKey": arguments.environment,
        "applicationKey": arguments.application,
        "version": arguments.version,
    }
    event = {key: value for key, value in fields.items() if value is not None}
    result = await run.send(
        {**event, "eventType": arguments.event_type},
        url=arguments.url,
        secret=secret,
        delivery=arguments.delivery or str(uuid.uuid4()),
    )
    sys.stdout.write(f"{result.status} {escape_unprintable(result.body)}\n")
    return 0 if result.status < 300 else _EXIT_FAILURE  # noqa: PLR2004 - HTTP's own boundary


async def _tail(arguments: argparse.Namespace, settings: Settings) -> None:
    since = "0" if arguments.from_start else "$"
    await run.tail(settings, since=since, as_json=arguments.json)


async def _schema(arguments: argparse.Namespace, _: Settings) -> None:
    sys.stdout.write(render_contract(arguments.contract))


async def _settings(_: argparse.Namespace, __: Settings) -> None:
    lines = (
        f"{variable}{f' = {default}' if default else ''}\n    {description}"
        for variable, default, description in list_settings()
    )
    sys.stdout.write("\n".join(("Times are seconds; = is the default.\n", *lines, "")))


if __name__ == "__main__":
    main()
