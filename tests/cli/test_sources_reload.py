"""Tests of reloading the sources at SIGHUP while webhooks arrive."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from service.accept.signatures import sign_standard_webhook
from service.store.embedded import EmbeddedServer
from tests.cli.shell import BackgroundCommand, CommandRunner

OLD_SECRET, NEW_SECRET = "whsec_b2xkIHNlY3JldA==", "whsec_bmV3IHNlY3JldA=="
EVENT = json.dumps({"deploymentId": "a0eebc99", "eventType": "finished"}).encode()
SOURCE = '[[source]]\nname = "{}"\npreset = "native"\nsecrets = ["file:{}"]\n'


class ReloadingReceiver:
    """A receiver whose sources stand in a file, and the secret of these in another."""

    def __init__(self, home: Path) -> None:
        self.file = home / "sources.toml"
        self.secret = home / "secret"
        self.url = ""
        self.program: BackgroundCommand
        self.session: aiohttp.ClientSession

    def write_sources(self, *names: str, secret: str = OLD_SECRET) -> None:
        """Name the sources of a native body."""
        self.file.write_text("".join(SOURCE.format(name, self.secret) for name in names))
        self.secret.write_text(f"{secret}\n")

    async def reload(self, log_event: str = "sources_reloaded") -> None:
        """Send SIGHUP to the receiver, and wait for its log event."""
        self.program.lines.clear()
        self.program.child.send_signal(signal.SIGHUP)
        await self.program.wait_for(f'"event":"{log_event}"')

    async def post(self, delivery: str, *, secret: str = OLD_SECRET, name: str = "ci") -> int:
        """Sign and post one event; return the status."""
        url = f"{self.url}/webhooks/{name}"
        async with self.session.post(
            url, data=EVENT, headers=sign_event(delivery, secret)
        ) as response:
            await response.read()
            return response.status

    async def get_readiness(self) -> tuple[int, Any]:
        """Get /readyz; return status and warnings."""
        async with self.session.get(f"{self.url}/readyz") as response:
            return response.status, (await response.json()).get("warnings")


def sign_event(delivery: str, secret: str) -> Mapping[str, str]:
    """Sign the event."""
    now_s = int(time.time())
    return sign_standard_webhook(secret, delivery=delivery, timestamp_s=now_s, body=EVENT)


@pytest.fixture
async def receiver(
    command_runner: CommandRunner, server: EmbeddedServer, tmp_path: Path
) -> AsyncIterator[ReloadingReceiver]:
    """Open the receiver with one source."""
    receiver = ReloadingReceiver(tmp_path)
    receiver.write_sources("ci")
    receiver.program = await command_runner.start(
        "serve",
        ready_pattern="receiver_started",
        ENRICHER_REDIS_URL=server.url,
        ENRICHER_SOURCES=str(receiver.file),
    )
    started_event = json.loads((await receiver.program.wait_for(".*receiver_started.*")).group())
    receiver.url = started_event["url"]
    async with aiohttp.ClientSession() as receiver.session:
        yield receiver


async def test_reload_drops_no_webhook(
    receiver: ReloadingReceiver,
) -> None:
    """Eight senders never pause, the file is swapped twelve times, and every answer is a yes."""
    answers: Counter[int] = Counter()
    stop = asyncio.Event()

    async def send(lane: int) -> None:
        while not stop.is_set():
            answers[await receiver.post(f"{lane}-{answers.total()}")] += 1

    lanes = [asyncio.create_task(send(lane)) for lane in range(8)]
    for number in range(12):
        enough = answers.total() + 20
        receiver.write_sources("ci", *["more"] * (number % 2))
        await receiver.reload()
        while answers.total() < enough:
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*lanes)
    assert answers.keys() <= {200, 202}


async def test_webhook_in_progress_keeps_the_source_it_started_with(
    receiver: ReloadingReceiver,
) -> None:
    """Half of it came, its source went, the other half came: it is taken, the next one is not."""
    address = urlsplit(receiver.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    headers = {
        **sign_event("slow", OLD_SECRET),
        "Host": "receiver",
        "Content-Length": str(len(EVENT)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"POST /webhooks/ci HTTP/1.1\r\n{head}Expect: 100-continue\r\n\r\n".encode())
    assert b"100" in await reader.readuntil(b"\r\n\r\n")  # the receiver has begun with it
    writer.write(EVENT[:10])
    receiver.write_sources("other")
    await receiver.reload()
    writer.write(EVENT[10:])
    assert b" 202 " in await reader.readuntil(b"\r\n")
    writer.close()
    await writer.wait_closed()
    assert (await receiver.post("next"), await receiver.post("next", name="other")) == (404, 202)


async def test_reload_replaces_a_secret_from_its_file(receiver: ReloadingReceiver) -> None:
    """The new one counts from then on, and the old one no more."""
    assert (await receiver.post("1"), await receiver.post("2", secret=NEW_SECRET)) == (202, 401)
    receiver.write_sources("ci", secret=NEW_SECRET)
    await receiver.reload()
    assert (await receiver.post("3"), await receiver.post("4", secret=NEW_SECRET)) == (401, 202)
    assert not [line for line in receiver.program.lines if OLD_SECRET in line or NEW_SECRET in line]


async def test_reload_of_an_invalid_file_keeps_the_sources_and_warns_in_readyz(
    receiver: ReloadingReceiver,
) -> None:
    """The receiver is ready and warns, with the key, until the file is corrected."""
    assert await receiver.get_readiness() == (200, None)
    receiver.file.write_text(receiver.file.read_text() + "secret = 1\n")
    await receiver.reload("sources_reload_failed")
    problem = f'{receiver.file}: source "ci": secret: there is no such key'
    status, (warning,) = await receiver.get_readiness()
    assert (status, problem in warning) == (200, True), warning
    assert [line for line in receiver.program.lines if json.loads(line)["reason"] in warning]
    assert await receiver.post("1") == 202

    receiver.file.unlink()
    await receiver.reload("sources_reload_failed")
    _, (warning,) = await receiver.get_readiness()
    assert "ENRICHER_SOURCES cannot be read" in warning

    receiver.write_sources("ci")
    await receiver.reload()
    assert await receiver.get_readiness() == (200, None)


async def test_reload_reads_the_webhook_secret_file_again(
    command_runner: CommandRunner, server: EmbeddedServer, tmp_path: Path
) -> None:
    """Where ENRICHER_WEBHOOK_SECRET_FILE names it."""
    receiver = ReloadingReceiver(tmp_path)
    receiver.secret.write_text(OLD_SECRET)
    del command_runner.env["ENRICHER_WEBHOOK_SECRET"]
    receiver.program = await command_runner.start(
        "serve",
        ready_pattern="receiver_started",
        ENRICHER_REDIS_URL=server.url,
        ENRICHER_WEBHOOK_SECRET_FILE=str(receiver.secret),
    )
    receiver.url = json.loads((await receiver.program.wait_for(".*receiver_started.*")).group())[
        "url"
    ]
    receiver.secret.write_text(f"{NEW_SECRET} {OLD_SECRET}")
    await receiver.reload()
    async with aiohttp.ClientSession() as receiver.session:
        assert await receiver.post("1", secret=NEW_SECRET, name="native") == 202
        assert await receiver.post("2", secret=OLD_SECRET, name="native") == 202
