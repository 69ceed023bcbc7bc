"""Are the rights of deploy/redis/enricher.acl those that the service needs, and no more?"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError

from service import checkup, commands, mending
from service.__main__ import _make_parser
from service.settings import Secret
from service.simulate.options import Options
from service.store.connect import open_client
from service.store.keys import Keys
from tests.conftest import Eventually
from tests.deploy.permissions import FILE, NO_PASSWORD, list_commands, write_acl
from tests.story.stage import Story, name_deployment, set_stage

PASSWORD = "s3cr3t"
NOT_THERE = "04040404-9c0b-4ef8-bb6d-000000000001"


def test_the_file_is_what_the_code_needs() -> None:
    """Else: python -m tests.deploy.permissions > deploy/redis/enricher.acl."""
    assert FILE.read_text() == write_acl("deployments")


def test_nothing_dangerous_is_needed() -> None:
    """No command empties a server, rewrites its settings, or shows what others do."""
    never = ("flush", "config|set", "shutdown", "debug", "monitor", "keys", "acl", "replicaof")
    assert [name for name in list_commands() if name.startswith(never)] == []
    assert "allkeys" not in FILE.read_text()
    assert "+@" not in FILE.read_text()


class Users:
    """The users of the file, on a server and in a namespace of a test's own."""

    def __init__(self, redis: Redis, url: str, keys: Keys) -> None:
        self.redis = redis
        self.keys = keys
        self._socket = url.removeprefix("unix://")
        self._say: Any = redis.execute_command
        self._names: list[str] = []

    async def add(self, name: str, *, lacking: str = "") -> str:
        """Make a user as the file says, but without one of its commands; gives its URL."""
        (line,) = [each for each in FILE.read_text().splitlines() if each.split()[1] == name]
        digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
        line = line.replace(NO_PASSWORD, f"#{digest}")
        words = line.replace("{deployments}", f"{{{self.keys.namespace}}}").split()[2:]
        kept = [word for word in words if word != f"+{lacking}"]
        assert len(kept) == len(words) - bool(lacking)
        own = f"{name}-{self.keys.namespace}"
        await self._say("ACL", "SETUSER", own, *kept)
        await self._say("ACL", "LOG", "RESET")
        self._names.append(own)
        return f"unix://{own}:{PASSWORD}@{self._socket}"

    async def list_refusals(self) -> list[str]:
        """List what was not permitted."""
        log: Any = await self._say("ACL", "LOG")
        return sorted({_read_entry(entry) for entry in log})

    async def forget(self) -> None:
        """Take the users away."""
        if self._names:
            await self._say("ACL", "DELUSER", *self._names)


def _read_entry(entry: Any) -> str:
    facts = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
    told = {_text(name): _text(value) for name, value in facts.items()}
    return f"{told['reason']} {told['object']}"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.fixture
async def users(redis: Redis, redis_url: str, keys: Keys) -> AsyncIterator[Users]:
    """Give users that are gone afterwards."""
    made = Users(redis, redis_url, keys)
    yield made
    await made.forget()


async def do_everything(story: Story, eventually: Eventually) -> None:
    """Let a door, workers and a person do all that they do."""
    await story.open(workers=1, appear_deadline=0.2)
    assert (await _ask(story, "/readyz"))[0] == 200
    await _send_all_kinds(story)
    await eventually(lambda: _has(story, records=2, failures=1))
    await story.redis.xgroup_create(story.keys.enriched, "readers", id="0")
    await story.redis.xreadgroup("readers", "one", {story.keys.enriched: ">"}, count=1)
    await story.add_worker()  # which trims as it begins
    await _mend(story, "failed", "list", "--json")
    await _mend(story, "failed", "show", f"id:{NOT_THERE}")
    await _mend(story, "failed", "retry", "--all", "--yes")
    await eventually(lambda: _has(story, records=2, failures=1))
    await _mend(story, "failed", "drop", f"id:{NOT_THERE}")
    assert not await story.failures()
    arguments = _make_parser().parse_args(["doctor"])
    await checkup.examine(arguments, story.settings, story.log)
    for since in ("0", "$"):
        tailing = asyncio.create_task(commands.tail(story.settings, since=since, as_json=True))
        await asyncio.wait([tailing], timeout=0.3)
        assert not tailing.done() or tailing.exception() is None
        tailing.cancel()
        await asyncio.gather(tailing, return_exceptions=True)


async def _ask(story: Story, path: str) -> tuple[int, str]:
    async with story.session.get(story.door + path) as response:
        return response.status, await response.text()


async def _send_all_kinds(story: Story) -> None:
    """By id, to be found, twice, again with other content, never there."""
    by_id = {"deploymentId": name_deployment(1), "eventType": "finished"}
    for delivery in ("one", "one", "two"):
        await story.post(by_id, delivery=delivery)
    sought = {"projectKey": "default", "environmentKey": "production", "version": "v1"}
    sought |= {"applicationKey": "web", "eventType": "finished"}
    url = f"{story.settings.launchdarkly_url}/api/v2/engineering-insights/deployment-events"
    headers = {"Authorization": Options().token}
    async with story.session.post(url, json=sought, headers=headers) as response:
        assert response.status == 201
    await story.post(sought)
    await story.post({"deploymentId": NOT_THERE, "eventType": "finished"})


async def _has(story: Story, *, records: int, failures: int) -> bool:
    told = len({record["subject"] for record in await story.records()})
    return (told, len(await story.failures())) == (records, failures) and await story.is_done()


async def _mend(story: Story, *words: str) -> None:
    arguments = _make_parser().parse_args(words)
    assert await mending.mend(arguments, story.settings, story.log) == 0


@pytest.fixture
async def story(redis: Redis, keys: Keys) -> AsyncIterator[Story]:
    """Set the stage; a test says as whom it is played."""
    async with set_stage(redis, keys.namespace, grace=1.0, log_format="json") as told:
        yield told


async def play(story: Story, url: str, eventually: Eventually) -> None:
    """Do everything as the user of a URL."""
    story.settings = replace(story.settings, redis_url=Secret(url))
    await do_everything(story, eventually)


async def test_all_that_the_service_does_is_permitted(
    story: Story, users: Users, eventually: Eventually
) -> None:
    """Door, worker, trimming, failed, doctor and tail, under this user: never a NOPERM."""
    await play(story, await users.add("enricher"), eventually)
    assert await users.list_refusals() == []


@pytest.mark.parametrize("lacking", ["zadd", "xtrim", "client|list", "xrevrange", "zmscore"])
async def test_a_command_that_lacks_is_noticed(
    story: Story,
    users: Users,
    eventually: Eventually,
    connections: WeakSet[AbstractConnection],
    lacking: str,
) -> None:
    """So the test above does see it."""
    url = await users.add("enricher", lacking=lacking)
    playing = asyncio.create_task(play(story, url, eventually))

    async def is_refused() -> bool:
        return bool(await users.list_refusals())

    await eventually(is_refused)
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    assert await users.list_refusals() == [f"command {lacking}"]
    await story.close()
    for one in [one for one in connections if one.is_connected]:
        await one.disconnect(nowait=True)  # a person's client may have been cut while it closed
    half_done = [key async for key in story.redis.scan_iter(match=f"{{{users.keys.namespace}}}:*")]
    await story.redis.unlink(*half_done)  # a script that is refused in the middle ends there


async def test_other_keys_are_out_of_reach(users: Users) -> None:
    """Another account's namespace, and everything else on a shared server."""
    async with open_client(await users.add("enricher")) as client:
        for key in ("{other}:backlog", "anything", f"{{{users.keys.namespace}}}:new"):
            with pytest.raises(NoPermissionError):
                await client.get(key)


async def test_a_reader_reads_records_and_nothing_else(users: Users, redis: Redis) -> None:
    """With a group and without; it can neither write the stream nor see what waits."""
    stream = users.keys.enriched
    entry: Any = await redis.xadd(stream, {"id": "a:1"})
    async with open_client(await users.add("reader")) as client:
        await client.xgroup_create(stream, "mine", id="0")
        read: Any = await client.xreadgroup("mine", "one", {stream: ">"})
        assert read
        assert await client.xack(stream, "mine", entry) == 1
        assert await client.xread({stream: "0"})
        for refused in (client.xadd(stream, {"id": "b:1"}), client.delete(stream)):
            with pytest.raises(NoPermissionError):
                await refused
        with pytest.raises(NoPermissionError):
            await client.zrange(users.keys.backlog, 0, -1)
