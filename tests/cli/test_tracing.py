"""Tests of tracing: when OpenTelemetry is loaded, and that a lost collector costs no webhook."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service import __version__
from service.metrics.http import serve_app
from service.store.embedded import socket_path
from service.store.keys import Keys
from service.tracing.setup import is_tracing_enabled
from tests.cli.shell import BackgroundCommand, CommandRunner

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
HEADER = "OTEL_EXPORTER_OTLP_HEADERS"
SLOWLY = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}  # ms: spans go out at the end only
KEYS = Keys("deployments")
SEND_COMMAND = "send --id a0eebc99-9c0b-4ef8-bb6d-000000000001 --url"


# What a process prints at its end: each module of OpenTelemetry that it has loaded.
LIST_MODULES = """
import atexit, sys
atexit.register(lambda: print(
    "loaded:", *[name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]
))
"""
WITHOUT_OPENTELEMETRY = """
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


class SpanCollector:
    """Takes spans, as the OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.url = ""
        self.names: set[str] = set()
        self.services: set[tuple[str, str]] = set()

    async def receive(self, request: web.Request) -> web.Response:
        """Take one batch."""
        export = ExportTraceServiceRequest.FromString(await request.read())
        for resource_spans in export.resource_spans:
            attributes = {
                pair.key: pair.value.string_value for pair in resource_spans.resource.attributes
            }
            self.services.add((attributes["service.name"], attributes["service.version"]))
            self.names |= {
                span.name for scope in resource_spans.scope_spans for span in scope.spans
            }
        return web.Response()


@pytest.fixture
async def span_collector() -> AsyncIterator[SpanCollector]:
    """Open a collector."""
    span_collector, app = SpanCollector(), web.Application()
    app.router.add_post("/v1/traces", span_collector.receive)
    async with serve_app(app, host="127.0.0.1", port=0) as url:
        span_collector.url = url
        yield span_collector


async def loaded_modules(site: Path, program: str) -> set[str]:
    """List what of OpenTelemetry a program has loaded in the end, as its site lets it."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        env={"PYTHONPATH": str(site)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await child.communicate()
    return set(out.decode().partition("loaded:")[2].split())


async def run_one_webhook(shell: CommandRunner, **changes: str) -> BackgroundCommand:
    """Run the whole until one webhook has become a record."""
    upstream = await shell.start("simulate --port 0", ready_pattern="simulator_started")
    changes["ENRICHER_LAUNCHDARKLY_URL"] = (await upstream.wait_for(r"http://[\d.:]+"))[0]
    program = await shell.start("run", ready_pattern="receiver_started", **changes)
    url = (await program.wait_for(r'(?=.*receiver_started).*"(http://[^"]+)"'))[1]
    send_result = await shell.run(f"{SEND_COMMAND} {url}/webhooks/native")
    assert send_result.code == 0, send_result.err
    await program.wait_for("deployment_published")
    return program


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "True"}, False),
        ({ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "false"}, True),
        ({ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "console, otlp"}, True),
    ],
)
def test_standard_variables_enable_tracing(environ: dict[str, str], wanted: bool) -> None:
    """An endpoint turns it on; what turns OpenTelemetry off turns it off here."""
    assert is_tracing_enabled(environ) is wanted


@pytest.mark.parametrize("extra", ["absent", "installed"])
async def test_disabled_tracing_loads_no_opentelemetry(
    command_runner: CommandRunner, tmp_path: Path, extra: str
) -> None:
    """Receiver and worker load nothing without the extra, else only what redis-py loads."""
    (tmp_path / "sitecustomize.py").write_text(
        LIST_MODULES + (WITHOUT_OPENTELEMETRY if extra == "absent" else "")
    )
    watched = {"PYTHONPATH": str(tmp_path)}
    by_redis = await loaded_modules(tmp_path, "import redis.asyncio")
    assert bool(by_redis) is (extra == "installed")
    server = await command_runner.start(
        "run", ready_pattern="receiver_started"
    )  # whose Redis both of them use
    command_runner.env["ENRICHER_REDIS_URL"] = f"unix://{socket_path(command_runner.data)}"
    receiver = await command_runner.start("serve", ready_pattern="receiver_started", **watched)
    worker = await command_runner.start("work", ready_pattern="worker_started", **watched)
    for program in (receiver, worker):
        assert await program.stop() == 0
        loaded = (await program.wait_for("^loaded:(.*)"))[1]
        assert set(loaded.split()) == by_redis
    assert await server.stop() == 0


async def test_spans_are_flushed_at_the_end(
    command_runner: CommandRunner, span_collector: SpanCollector
) -> None:
    """SIGTERM sends the spans that no batch has taken yet, under our name."""
    program = await run_one_webhook(command_runner, **{ENDPOINT: span_collector.url, **SLOWLY})
    assert await program.stop() == 0
    assert span_collector.services == {("deployment-enricher", __version__)}
    assert span_collector.names == {
        "POST /webhooks/{source}",
        f"process {KEYS.backlog}",
        "GET",
        f"append {KEYS.enriched}",
    }


async def test_unreachable_collector_costs_no_webhook(command_runner: CommandRunner) -> None:
    """Its absence is a line in the log, without the secret for it, and the end is in time."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        away = f"http://127.0.0.1:{held.getsockname()[1]}"
        quick = {"OTEL_BSP_SCHEDULE_DELAY": "50", HEADER: "authorization=hush,hush hush"}
        program = await run_one_webhook(command_runner, **{ENDPOINT: away, **quick})
        await program.wait_for("tracing_export_failed")
        async with asyncio.timeout(20):
            assert await program.stop() == 0
    assert not [line for line in program.lines if "Traceback" in line or "hush" in line]


class SilentCollector:
    """What takes spans and says nothing of them."""

    def __init__(self) -> None:
        self.url = ""
        self.received = asyncio.Event()

    async def receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take all that comes, until the other side goes."""
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                self.received.set()
        writer.close()


@pytest.fixture
async def silent_collector() -> AsyncIterator[SilentCollector]:
    """Open a collector that takes and never answers."""
    silent_collector = SilentCollector()
    server = await asyncio.start_server(silent_collector.receive, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    silent_collector.url = f"http://{host}:{port}"
    yield silent_collector
    server.close()


async def test_silent_collector_delays_nothing(
    command_runner: CommandRunner, silent_collector: SilentCollector
) -> None:
    """Webhooks, records and the end wait for it no longer than is told."""
    changes = {
        ENDPOINT: silent_collector.url,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "600",  # s: waiting for a response would take minutes
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_BSP_MAX_QUEUE_SIZE": "1",  # and what finds no room must not wait for it either
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1",
    }
    program = await run_one_webhook(command_runner, **changes)
    async with asyncio.timeout(30):
        await silent_collector.received.wait()
    url = (await program.wait_for(r'(?=.*receiver_started).*"(http://[^"]+)"'))[1]
    sent = await command_runner.run(
        f"{SEND_COMMAND} {url}/webhooks/native".replace("000001 ", "000002 ")
    )
    assert sent.code == 0, sent.err
    await program.wait_for("deployment_published.*000000000002|000000000002.*deployment_published")
    async with asyncio.timeout(20):  # the SDK itself would wait for half a minute
        assert await program.stop() == 0


async def test_endpoint_without_the_extra_disables_tracing_only(
    command_runner: CommandRunner, tmp_path: Path
) -> None:
    """It is told once what is missing, and the work goes on without traces."""
    (tmp_path / "sitecustomize.py").write_text(LIST_MODULES + WITHOUT_OPENTELEMETRY)
    absent = {ENDPOINT: "http://127.0.0.1:9", "PYTHONPATH": str(tmp_path)}
    program = await run_one_webhook(command_runner, **absent)
    await program.wait_for("tracing_disabled.*extra otel|extra otel.*tracing_disabled")
    assert await program.stop() == 0


async def test_unreadable_tracing_variable_disables_tracing_only(
    command_runner: CommandRunner,
) -> None:
    """A variable that is no number is told, and the work goes on without traces."""
    odd = {ENDPOINT: "http://127.0.0.1:9", "OTEL_BSP_MAX_QUEUE_SIZE": "many"}
    program = await run_one_webhook(command_runner, **odd)
    await program.wait_for("tracing_(export_failed|disabled)")
    assert await program.stop() == 0
