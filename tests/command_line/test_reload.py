"""May the sources change while webhooks come in? At SIGHUP, and nobody at the door notices."""

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

from service.accept.signature import sign_standard_webhook
from service.store.embedded import EmbeddedServer
from tests.command_line.shell import Program, Shell

OLD, NEW = "whsec_b2xkIHNlY3JldA==", "whsec_bmV3IHNlY3JldA=="
EVENT = json.dumps({"deploymentId": "a0eebc99", "eventType": "finished"}).encode()
SOURCE = '[[source]]\nname = "{}"\npreset = "native"\nsecrets = ["file:{}"]\n'


class Door:
    """A door whose sources stand in a file, and the secret of these in another."""

    def __init__(self, home: Path) -> None:
        self.file = home / "sources.toml"
        self.secret = home / "secret"
        self.url = ""
        self.program: Program
        self.session: aiohttp.ClientSession

    def write(self, *names: str, secret: str = OLD) -> None:
        """Name the sources of a native body."""
        self.file.write_text("".join(SOURCE.format(name, self.secret) for name in names))
        self.secret.write_text(f"{secret}\n")

    async def reload(self, fact: str = "sources_reloaded") -> None:
        """Tell the door to read again, and wait until it says what came of it."""
        self.program.lines.clear()
        self.program.child.send_signal(signal.SIGHUP)
        await self.program.wait_for(f'"event":"{fact}"')

    async def post(self, delivery: str, *, secret: str = OLD, name: str = "ci") -> int:
        """Sign and post one event; gives the status."""
        url = f"{self.url}/webhooks/{name}"
        async with self.session.post(url, data=EVENT, headers=sign(delivery, secret)) as answer:
            await answer.read()
            return answer.status

    async def ask_ready(self) -> tuple[int, Any]:
        """Ask for readiness; gives status and warnings."""
        async with self.session.get(f"{self.url}/readyz") as answer:
            return answer.status, (await answer.json()).get("warnings")


def sign(delivery: str, secret: str) -> Mapping[str, str]:
    """Sign the event."""
    now_s = int(time.time())
    return sign_standard_webhook(secret, delivery=delivery, timestamp_s=now_s, body=EVENT)


@pytest.fixture
async def door(shell: Shell, server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Door]:
    """Open the door with one source."""
    made = Door(tmp_path)
    made.write("ci")
    made.program = await shell.start(
        "serve",
        until="door_opened",
        ENRICHER_REDIS_URL=server.url,
        ENRICHER_SOURCES=str(made.file),
    )
    opened = json.loads((await made.program.wait_for(".*door_opened.*")).group())
    made.url = opened["url"]
    async with aiohttp.ClientSession() as made.session:
        yield made


async def test_no_webhook_is_dropped_while_the_sources_are_read_anew(door: Door) -> None:
    """Eight senders never pause, the file is swapped twelve times, and every answer is a yes."""
    answers: Counter[int] = Counter()
    stop = asyncio.Event()

    async def send(lane: int) -> None:
        while not stop.is_set():
            answers[await door.post(f"{lane}-{answers.total()}")] += 1

    lanes = [asyncio.create_task(send(lane)) for lane in range(8)]
    for number in range(12):
        enough = answers.total() + 20
        door.write("ci", *["more"] * (number % 2))
        await door.reload()
        while answers.total() < enough:
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*lanes)
    assert answers.keys() <= {200, 202}


async def test_a_webhook_that_had_begun_is_judged_by_the_source_that_it_found(door: Door) -> None:
    """Half of it came, its source went, the other half came: it is taken, the next one is not."""
    address = urlsplit(door.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    headers = {**sign("slow", OLD), "Host": "door", "Content-Length": str(len(EVENT))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"POST /webhooks/ci HTTP/1.1\r\n{head}Expect: 100-continue\r\n\r\n".encode())
    assert b"100" in await reader.readuntil(b"\r\n\r\n")  # the door has begun with it
    writer.write(EVENT[:10])
    door.write("other")
    await door.reload()
    writer.write(EVENT[10:])
    assert b" 202 " in await reader.readuntil(b"\r\n")
    writer.close()
    await writer.wait_closed()
    assert (await door.post("next"), await door.post("next", name="other")) == (404, 202)


async def test_a_secret_is_rotated_by_its_file(door: Door) -> None:
    """The new one counts from then on, and the old one no more."""
    assert (await door.post("1"), await door.post("2", secret=NEW)) == (202, 401)
    door.write("ci", secret=NEW)
    await door.reload()
    assert (await door.post("3"), await door.post("4", secret=NEW)) == (401, 202)
    assert not [line for line in door.program.lines if OLD in line or NEW in line]


async def test_a_bad_file_keeps_the_old_one_and_says_so_where_people_look(door: Door) -> None:
    """The door is ready and warns, with the line, until the file is mended."""
    assert await door.ask_ready() == (200, None)
    door.file.write_text(door.file.read_text() + "secret = 1\n")
    await door.reload("sources_kept")
    complaint = f'{door.file}:5: source "ci": secret: there is no such key'
    status, (warning,) = await door.ask_ready()
    assert (status, complaint in warning) == (200, True)
    assert [line for line in door.program.lines if json.loads(line)["reason"] in warning]
    assert await door.post("1") == 202

    door.file.unlink()
    await door.reload("sources_kept")
    _, (warning,) = await door.ask_ready()
    assert "ENRICHER_SOURCES cannot be read" in warning

    door.write("ci")
    await door.reload()
    assert await door.ask_ready() == (200, None)


async def test_the_only_secret_of_a_door_without_a_file_is_read_again_too(
    shell: Shell, server: EmbeddedServer, tmp_path: Path
) -> None:
    """Where ENRICHER_WEBHOOK_SECRET_FILE names it."""
    door = Door(tmp_path)
    door.secret.write_text(OLD)
    del shell.environ["ENRICHER_WEBHOOK_SECRET"]
    door.program = await shell.start(
        "serve",
        until="door_opened",
        ENRICHER_REDIS_URL=server.url,
        ENRICHER_WEBHOOK_SECRET_FILE=str(door.secret),
    )
    door.url = json.loads((await door.program.wait_for(".*door_opened.*")).group())["url"]
    door.secret.write_text(f"{NEW} {OLD}")
    await door.reload()
    async with aiohttp.ClientSession() as door.session:
        assert await door.post("1", secret=NEW, name="native") == 202
        assert await door.post("2", secret=OLD, name="native") == 202
