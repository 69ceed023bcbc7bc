"""What can be typed? The command line: arguments in, exit code out."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Callable, Coroutine

import aiohttp
from msgspec.structs import replace
from redis.exceptions import RedisError

from service import __version__, commands
from service.accept.sources import SourceError
from service.app import read_sources
from service.log import Log, open_log
from service.operate.demo import Pace
from service.rehearsal import rehearse, set_up_upstream
from service.settings import (
    TOKEN_VARIABLE,
    Secret,
    Settings,
    SettingsError,
    describe_settings,
    read_settings,
)
from service.simulate.options import Options, change_options
from service.store import Refused, Unavailable
from service.store.connect import AWAY
from service.store.embedded import EmbeddedServerError

_MISTAKE, _FAILURE = 2, 1

_EPILOG = """\
exit codes: 0 ended as asked, 1 something needed is away or refuses, 2 a mistake in what was typed
or set. Settings are environment variables; `deployment-enricher settings` lists them.
"""

Act = Callable[[argparse.Namespace, Settings], Coroutine[object, object, int | None]]


def main() -> None:
    """Run the command that was typed."""
    arguments = _make_parser().parse_args()
    try:
        settings = read_settings(os.environ)
        code = asyncio.run(_run_until_signalled(arguments.act(arguments, settings)))
    except (SettingsError, SourceError) as error:
        code = _complain(str(error), _MISTAKE)
    except (Refused, Unavailable, EmbeddedServerError) as error:
        code = _complain(str(error), _FAILURE)
    except (*AWAY, RedisError, aiohttp.ClientError) as error:
        code = _complain(f"{type(error).__name__}: {error}", _FAILURE)
    except KeyboardInterrupt:
        code = 0
    sys.exit(code)


async def _run_until_signalled(act: Coroutine[object, object, int | None]) -> int:
    """Run to the end, or until SIGINT or SIGTERM; a second signal cuts even the stopping short."""
    task = asyncio.ensure_future(act)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        return await task or 0
    return 0


def _complain(reason: str, code: int) -> int:
    sys.stderr.write(f"deployment-enricher: {reason}\n")
    return code


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deployment-enricher",
        description="A signed deployment webhook in, one enriched record on a Redis stream out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    named = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, act: Act, meaning: str) -> argparse.ArgumentParser:
        command = named.add_parser(name, help=meaning, description=meaning)
        command.set_defaults(act=act)
        return command

    add("run", _run, "take webhooks and work on them, in one process")
    add("serve", _serve, "take webhooks only (needs ENRICHER_REDIS_URL)")
    add("work", _work, "work on the backlog only (needs ENRICHER_REDIS_URL)")
    _add_demo(add("demo", _demo, "see it work: a pipeline and a LaunchDarkly are simulated"))
    _add_simulate(add("simulate", _simulate, "a LaunchDarkly on the table, for demos and CI"))
    _add_send(add("send", _send, "sign one event and post it"))
    _add_tail(add("tail", _tail, "follow the output stream"))
    add("settings", _settings, "list every setting, its default and its meaning")
    return parser


def _add_demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("--events", type=int, default=0, help="end after so many records")
    command.add_argument("--per-second", type=float, default=2.0, help="deployments a second")
    command.add_argument("--quota", type=int, default=60, help="calls allowed in 5 s")
    command.add_argument("--seed", type=int, default=1, help="decides what is invented")


def _add_simulate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=int, default=9090)
    command.add_argument(
        "--options", default="{}", help='JSON of changed options: \'{"quota":{"global_limit":20}}\''
    )


def _add_send(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", default="http://127.0.0.1:8080/webhooks/native")
    command.add_argument("--delivery", default=None, help="idempotency key; default: a new one")
    command.add_argument("--id", help="LaunchDarkly's deployment id, when it is known")
    for name in ("project", "environment", "application", "version"):
        command.add_argument(f"--{name}")
    command.add_argument("--event-type", choices=("finished", "failed"), default="finished")


def _add_tail(command: argparse.ArgumentParser) -> None:
    command.add_argument("--from-start", action="store_true", help="begin with the oldest record")
    command.add_argument("--json", action="store_true", help="one JSON object a line")


async def _run(_: argparse.Namespace, settings: Settings) -> None:
    _require_token(settings)
    await commands.run(settings, read_sources(settings, os.environ), _open_log(settings))


async def _serve(_: argparse.Namespace, settings: Settings) -> None:
    _require_redis(settings, "serve")
    await commands.serve(settings, read_sources(settings, os.environ), _open_log(settings))


async def _work(_: argparse.Namespace, settings: Settings) -> None:
    _require_redis(settings, "work")
    _require_token(settings)
    await commands.work(settings, _open_log(settings))


async def _demo(arguments: argparse.Namespace, settings: Settings) -> None:
    await rehearse(
        replace(settings, port=0, sources=""),
        set_up_upstream(seed=arguments.seed, calls_per_window=arguments.quota),
        pace=Pace(per_second=arguments.per_second, events=arguments.events),
        log=open_log(level="error"),
        make_sources=lambda secret: read_sources(
            replace(settings, sources="", webhook_secret=Secret(secret)), os.environ
        ),
    )


async def _simulate(arguments: argparse.Namespace, settings: Settings) -> None:
    options = change_options(Options(), arguments.options.encode())
    if isinstance(options, str):
        raise SettingsError(f"--options: {options}")
    log = _open_log(settings)
    await commands.simulate(options, host=arguments.host, port=arguments.port, log=log)


async def _send(arguments: argparse.Namespace, settings: Settings) -> int:
    secrets = settings.webhook_secret.reveal().split()
    if not secrets:
        raise SettingsError("ENRICHER_WEBHOOK_SECRET is not set: an event cannot be signed")
    named = {
        "deploymentId": arguments.id,
        "projectKey": arguments.project,
        "environmentKey": arguments.environment,
        "applicationKey": arguments.application,
        "version": arguments.version,
    }
    event = {key: value for key, value in named.items() if value is not None}
    sent = await commands.send(
        {**event, "eventType": arguments.event_type},
        url=arguments.url,
        secret=secrets[0],
        delivery=arguments.delivery or str(uuid.uuid4()),
    )
    sys.stdout.write(f"{sent.status} {sent.body}\n")
    return 0 if sent.status < 300 else _FAILURE  # noqa: PLR2004 - HTTP's own boundary


async def _tail(arguments: argparse.Namespace, settings: Settings) -> None:
    since = "0" if arguments.from_start else "$"
    await commands.tail(settings, since=since, as_json=arguments.json)


async def _settings(_: argparse.Namespace, __: Settings) -> None:
    for variable, default, meaning in describe_settings():
        sys.stdout.write(f"{variable}  [{default}]\n    {meaning}\n")


def _open_log(settings: Settings) -> Log:
    pretty = {"auto": None, "pretty": True, "json": False}[settings.log_format]
    return open_log(pretty=pretty)


def _require_token(settings: Settings) -> None:
    if not settings.access_token:
        raise SettingsError(f"{TOKEN_VARIABLE} is not set: LaunchDarkly cannot be asked without it")


def _require_redis(settings: Settings, command: str) -> None:
    if not settings.redis_url:
        raise SettingsError(
            f"ENRICHER_REDIS_URL is not set: `{command}` shares a Redis with others; "
            "`run` brings its own"
        )


if __name__ == "__main__":
    main()
