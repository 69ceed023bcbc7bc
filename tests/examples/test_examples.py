"""Tests of deploy/examples: each example is short, runs, and prints what it should."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from service.store.connect import open_client
from service.store.keys import Keys
from tests.doc_blocks import ROOT, PageEnvironment
from tests.publish.sample_records import append_records

EXAMPLES = ROOT / "deploy" / "examples"
MAX_LINES = 40
PULL_REQUESTS = {
    "totalCount": 1,
    "items": [{"externalId": "7", "title": "Pay by card", "author": "jo"}],
}
EVENT = json.dumps(
    {
        "projectKey": "default",
        "environmentKey": "production",
        "applicationKey": "web",
        "version": "1.4.0",
        "eventType": "finished",
    }
)


def list_examples() -> list[Path]:
    """Return the files of the shelf that are programs."""
    return sorted(path for path in EXAMPLES.iterdir() if path.suffix in {".py", ".sh"})


@pytest.mark.parametrize("path", list_examples(), ids=lambda path: path.name)
def test_an_example_is_short_and_in_the_table(path: Path) -> None:
    """At most 40 lines, and a row of the README of the shelf."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert f"[{path.name}]({path.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


async def append(environment: PageEnvironment, *numbers: int, **changes: Any) -> list[str]:
    """Append records of the application "shop" to the stream of the environment."""
    client: Redis = open_client(environment.redis_url)
    try:
        return await append_records(client, Keys("deployments").enriched, *numbers, **changes)
    finally:
        await client.aclose()


def run_until(environment: PageEnvironment, name: str, stop_text: str, *arguments: str) -> str:
    """Run an example until it has printed a text; return what it printed until then."""
    program = " ".join(["python3", str(EXAMPLES / name), environment.redis_url, *arguments])
    return environment.run_until(program, stop_text)


async def test_release_notes_prints_pull_requests_and_lead_time(
    environment: PageEnvironment,
) -> None:
    """One section for each record."""
    await append(
        environment,
        1,
        applicationVersion="1.4.0",
        environmentKey="production",
        leadTime=7_200_000,
        pullRequests=PULL_REQUESTS,
    )
    assert run_until(environment, "release_notes.py", "lead time").splitlines() == [
        "## shop 1.4.0 in production, 2026-11-23T10:00:00.001Z",
        "",
        "- #7 Pay by card (jo)",
        "- lead time: 2.0 h",
    ]


@pytest.fixture
def chat() -> Iterator[tuple[str, list[bytes]]]:
    """Serve an incoming webhook of a chat; yield its URL and the messages that it got."""
    messages: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", messages
        server.shutdown()
        thread.join()


async def wait_until_acknowledged(environment: PageEnvironment, group: str) -> None:
    """Wait until a group has read and acknowledged every record of the stream."""
    client: Redis = open_client(environment.redis_url)
    stream = Keys("deployments").enriched
    try:
        while True:
            state = {row["name"].decode(): row for row in await client.xinfo_groups(stream)}
            if group in state and state[group]["pending"] == state[group]["lag"] == 0:
                return
            await asyncio.sleep(0.02)
    finally:
        await client.aclose()


async def test_post_to_chat_posts_each_deployment_once(
    environment: PageEnvironment, chat: tuple[str, list[bytes]]
) -> None:
    """A later revision posts nothing; a second run posts only what is new."""
    url, messages = chat
    command = f"python3 {EXAMPLES / 'post_to_chat.py'} {environment.redis_url} {url}"
    await append(environment, 1, environmentKey="staging", pullRequests=PULL_REQUESTS)
    await append(environment, 1, revision=2, environmentKey="staging")
    with environment.running(command):
        await wait_until_acknowledged(environment, "chat")
    await append(environment, 2, environmentKey="production")
    with environment.running(command):
        await wait_until_acknowledged(environment, "chat")
    assert [json.loads(message) for message in messages] == [
        {"text": "shop is in staging: 1 pull requests by jo"},
        {"text": "shop is in production: 0 pull requests by nobody known"},
    ]


async def test_deployments_per_day_counts_first_revisions(environment: PageEnvironment) -> None:
    """Two deployments on one day, one of them with two revisions."""
    await append(environment, 1, 2)
    await append(environment, 1, revision=2)
    printed = environment.run_command(
        f"python3 {EXAMPLES / 'deployments_per_day.py'} {environment.redis_url}"
    )
    assert printed.split() == ["2026-11-23", "shop", "2"]


async def test_blocking_reader_prints_every_record(environment: PageEnvironment) -> None:
    """In order, with id, application and environment."""
    ids = await append(environment, 1, 2, environmentKey="production")
    assert run_until(environment, "blocking_reader.py", ids[1]).splitlines() == [
        f"{record_id} shop production" for record_id in ids
    ]


async def test_two_readers_share_the_records(environment: PageEnvironment) -> None:
    """Each record goes to one of them."""
    ids = await append(environment, *range(1, 11))
    printed = environment.run_command(
        f"python3 {EXAMPLES / 'two_readers.py'} {environment.redis_url} 10"
    )
    readers, read_ids = zip(*(line.split() for line in printed.splitlines()), strict=True)
    assert sorted(read_ids) == sorted(ids)
    assert {*readers} == {"anna", "ben"}


async def test_read_sh_prints_and_acknowledges_one_record(environment: PageEnvironment) -> None:
    """The second run prints the next record, the third none."""
    ids = await append(environment, 1, 2)
    for record_id in ids:
        printed = environment.run_command(str(EXAMPLES / "read.sh"))
        assert json.loads(printed)["deployment"]["id"] == record_id.partition(":")[0]
    assert environment.run_command(str(EXAMPLES / "read.sh")) == "no new record\n"
    pending = environment.run_command("redis-cli XPENDING '{deployments}:enriched' shell")
    assert pending.splitlines()[0] == "0"


def test_senders_sign_what_the_receiver_accepts(
    environment_with_service: PageEnvironment,
) -> None:
    """The event is queued, by curl and openssl and by Python; the same delivery is a duplicate."""
    url = f"{environment_with_service.receiver_url}/webhooks/native"
    run = environment_with_service.run_command
    printed = run(f"{EXAMPLES / 'send.sh'} {url} run-19 <<<'{EVENT}'")
    assert json.loads(printed) == {
        "status": "queued",
        "job": "find:default/production/web/1.4.0",
        "delivery": "run-19",
    }
    assert '"duplicate"' in run(f"{EXAMPLES / 'send.sh'} {url} run-19 <<<'{EVENT}'")
    assert run(f"python3 {EXAMPLES / 'send.py'} {url} <<<'{EVENT}'").startswith(
        '202 {"status":"queued"'
    )
