"""The image's health check: the URL of each command, and what counts as an answer."""

import asyncio
import socket
import threading

import pytest
from redis.asyncio import Redis

from service.cli.healthcheck import WORKER_HEALTH_PORT, HealthUrl, find_problem, health_url
from service.cli.run import serve_worker_health
from service.settings import Secret, Settings
from service.store.embedded import EmbeddedServer
from service.store.keys import Keys
from tests.cli.shell import CommandRunner
from tests.cli.test_metrics import free_port
from tests.end_to_end.harness import open_harness


@pytest.mark.parametrize(
    ("command", "environ", "url"),
    [
        ("deployment-enricher serve", {}, HealthUrl(8080)),
        (
            "/sbin/docker-init -- deployment-enricher serve",
            {"ENRICHER_HOST": "::", "ENRICHER_PORT": "81"},
            HealthUrl(81, host="::"),
        ),
        ("deployment-enricher run", {"ENRICHER_PORT": ""}, HealthUrl(8080)),
        (
            "deployment-enricher simulate --host 0.0.0.0 --port 9191",
            {},
            HealthUrl(9191, path="/"),
        ),
        ("deployment-enricher simulate", {}, HealthUrl(9090, path="/")),
        ("deployment-enricher work", {"ENRICHER_PORT": "81"}, HealthUrl(WORKER_HEALTH_PORT)),
        (
            "deployment-enricher work",
            {"ENRICHER_METRICS_PORT": "9100"},
            HealthUrl(WORKER_HEALTH_PORT),
        ),
        ("deployment-enricher tail --json", {}, None),
    ],
)
def test_health_url_of_each_command_is_what_it_answers(
    command: str, environ: dict[str, str], url: HealthUrl | None
) -> None:
    """An init above the command changes nothing; a command without a server has no URL."""
    assert health_url(command.split(), environ) == url


def test_health_url_has_the_defaults_of_the_settings() -> None:
    """The check does not import the settings, so that it costs little every few seconds."""
    settings = Settings()
    assert health_url(["serve"], {}) == HealthUrl(settings.port, host=settings.host)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", False),
        (b"", False),
        (b"garbage", False),
    ],
)
def test_process_is_healthy_only_after_a_200(answer: bytes, *, expected: bool) -> None:
    """Another status, another protocol or no answer is unhealthy."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=answer_once)
        thread.start()
        assert (find_problem(HealthUrl(server.getsockname()[1])) is None) is expected
        thread.join()


def test_process_without_a_listener_is_unhealthy() -> None:
    """The port is bound, and nobody listens on it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        problem = find_problem(HealthUrl(silent.getsockname()[1]))
        assert problem is not None
        assert "refused" in problem


async def test_second_worker_of_a_machine_works_without_a_health_port(
    redis: Redis, redis_url: str, keys: Keys
) -> None:
    """The first worker answers; the second logs that the port is taken."""
    port = free_port()
    async with open_harness(redis, keys.namespace, redis_url=Secret(redis_url)) as harness:
        await harness.open(workers=1)
        assert harness.runtime is not None
        async with (
            serve_worker_health(harness.runtime, port=port),
            serve_worker_health(harness.runtime, port=port),
        ):
            assert await asyncio.to_thread(find_problem, HealthUrl(port)) is None
        assert await asyncio.to_thread(find_problem, HealthUrl(port))


async def test_worker_answers_on_the_default_port_also_while_redis_is_away(
    command_runner: CommandRunner, server: EmbeddedServer
) -> None:
    """Where another worker of this machine has the port, the log names it."""
    worker = await command_runner.start(
        "work", ready_pattern="worker_started", ENRICHER_REDIS_URL=server.url
    )
    if any("worker_health_skipped" in line for line in worker.lines):
        return
    assert await asyncio.to_thread(find_problem, HealthUrl(WORKER_HEALTH_PORT)) is None
    server.stop()
    await worker.wait_for("redis_disconnected|claim_failed")
    assert await asyncio.to_thread(find_problem, HealthUrl(WORKER_HEALTH_PORT)) is None
