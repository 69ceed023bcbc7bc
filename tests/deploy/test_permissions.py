"""Tests of deploy/redis/enricher.acl: it allows what the service needs, and no more."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError

from service.cli import doctor, failed, tail
from service.cli.failed import FailedFilter, Selection
from service.settings import Secret
from service.simulate.options import Options
from service.store.connect import open_client
from service.store.keys import Keys
from tests.conftest import Eventually
from tests.deploy.acl_users import AclUsers
from tests.deploy.permissions import ACL_FILE, list_commands, render_acl
from tests.end_to_end.harness import ServiceHarness, open_harness
from tests.factories import deployment_id

UNKNOWN_ID = "04040404-9c0b-4ef8-bb6d-000000000001"


def test_acl_file_matches_the_code() -> None:
    """To update the file: python -m tests.deploy.permissions > deploy/redis/enricher.acl."""
    assert ACL_FILE.read_text() == render_acl("deployments")


def test_acl_allows_no_dangerous_command() -> None:
    """No command empties a server, changes its configuration, or shows other clients."""
    dangerous = ("flush", "config|set", "shutdown", "debug", "monitor", "keys", "acl", "replicaof")
    assert [name for name in list_commands() if name.startswith(dangerous)] == []
    assert "allkeys" not in ACL_FILE.read_text()
    assert "+@" not in ACL_FILE.read_text()


@pytest.fixture
async def acl_users(redis: Redis, redis_url: str, keys: Keys) -> AsyncIterator[AclUsers]:
    """Return ACL users, and delete them afterwards."""
    acl_users = AclUsers(redis, redis_url, keys)
    yield acl_users
    await acl_users.delete()


async def run_every_feature(service: ServiceHarness, eventually: Eventually) -> None:
    """Run every feature of receivers, workers and commands."""
    await service.open(workers=1, not_found_timeout=0.2)
    assert (await _get(service, "/readyz"))[0] == 200
    await _send_all_kinds(service)
    await eventually(lambda: _has_counts(service, records=2, failures=1))
    await service.redis.xgroup_create(service.keys.enriched, "readers", id="0")
    await service.redis.xreadgroup("readers", "reader", {service.keys.enriched: ">"}, count=1)
    await service.add_worker()  # a worker trims the stream when it starts
    job = f"id:{UNKNOWN_ID}"
    async with failed.open_failed_command(service.settings, service.log) as command:
        await command.list_tickets(FailedFilter(), limit=None, as_json=True)
        assert await command.show_ticket(job, as_json=False) == 0
        everything = Selection(select_all=True)
        assert not await command.retry_or_drop("retry", everything, dry_run=False, confirmed=True)
    await eventually(lambda: _has_counts(service, records=2, failures=1))
    async with failed.open_failed_command(service.settings, service.log) as command:
        assert not await command.retry_or_drop(
            "drop", Selection(jobs=(job,)), dry_run=False, confirmed=True
        )
    assert not await service.failed_jobs()
    await doctor.run_doctor(service.settings, service.log)
    for since in ("0", "$"):
        tail_task = asyncio.create_task(tail.tail(service.settings, since=since, as_json=True))
        await asyncio.wait([tail_task], timeout=0.3)
        assert not tail_task.done() or tail_task.exception() is None
        tail_task.cancel()
        await asyncio.gather(tail_task, return_exceptions=True)


async def _get(service: ServiceHarness, path: str) -> tuple[int, str]:
    async with service.session.get(service.receiver_url + path) as response:
        return response.status, await response.text()


async def _send_all_kinds(service: ServiceHarness) -> None:
    """Post webhooks with an id, without an id, repeated, and for an unknown deployment."""
    by_id = {"deploymentId": deployment_id(1), "eventType": "finished"}
    for delivery in ("one", "one", "two"):
        await service.post(by_id, delivery=delivery)
    event = {"projectKey": "default", "environmentKey": "production", "version": "v1"}
    event |= {"applicationKey": "web", "eventType": "finished"}
    url = f"{service.settings.launchdarkly_url}/api/v2/engineering-insights/deployment-events"
    headers = {"Authorization": Options().token}
    async with service.session.post(url, json=event, headers=headers) as response:
        assert response.status == 201
    await service.post(event)
    await service.post({"deploymentId": UNKNOWN_ID, "eventType": "finished"})


async def _has_counts(service: ServiceHarness, *, records: int, failures: int) -> bool:
    record_count = len({record["subject"] for record in await service.records()})
    return (record_count, len(await service.failed_jobs())) == (
        records,
        failures,
    ) and await service.is_done()


@pytest.fixture
async def service(redis: Redis, keys: Keys) -> AsyncIterator[ServiceHarness]:
    """Build the service; each test chooses its Redis user."""
    async with open_harness(
        redis, keys.namespace, shutdown_timeout=1.0, log_format="json"
    ) as harness:
        yield harness


async def run_as_user(service: ServiceHarness, url: str, eventually: Eventually) -> None:
    """Run every feature as the user of a URL."""
    service.settings = replace(service.settings, redis_url=Secret(url))
    await run_every_feature(service, eventually)


async def test_service_user_may_do_everything_it_needs(
    service: ServiceHarness, acl_users: AclUsers, eventually: Eventually
) -> None:
    """Receiver, worker, trimming, failed, doctor and tail never get a NOPERM."""
    await run_as_user(service, await acl_users.add("enricher"), eventually)
    assert await acl_users.list_refusals() == []


@pytest.mark.parametrize("command", ["zadd", "xtrim", "client|list", "xrevrange", "zmscore"])
async def test_missing_permission_is_noticed(
    service: ServiceHarness,
    acl_users: AclUsers,
    eventually: Eventually,
    open_connections: WeakSet[AbstractConnection],
    command: str,
) -> None:
    """The test above would notice a command that the ACL lacks."""
    url = await acl_users.add("enricher", without_command=command)
    run_task = asyncio.create_task(run_as_user(service, url, eventually))

    async def is_refused() -> bool:
        return bool(await acl_users.list_refusals())

    await eventually(is_refused)
    run_task.cancel()
    await asyncio.gather(run_task, return_exceptions=True)
    assert await acl_users.list_refusals() == [f"command {command}"]
    await service.close()
    # A cancelled command may have left its connection open.
    for connection in [item for item in open_connections if item.is_connected]:
        await connection.disconnect(nowait=True)
    # A script that is denied in the middle leaves keys behind.
    leftover_keys = [
        key async for key in service.redis.scan_iter(match=f"{{{acl_users.keys.namespace}}}:*")
    ]
    if leftover_keys:
        await service.redis.unlink(*leftover_keys)


async def test_service_user_cannot_access_other_keys(acl_users: AclUsers) -> None:
    """Other namespaces and all other keys of a shared server are denied."""
    async with open_client(await acl_users.add("enricher")) as client:
        for key in ("{other}:backlog", "anything", f"{{{acl_users.keys.namespace}}}:new"):
            with pytest.raises(NoPermissionError):
                await client.get(key)


async def test_reader_can_only_read_records(acl_users: AclUsers, redis: Redis) -> None:
    """It reads with and without a group. It can neither write the stream nor see the backlog."""
    stream = acl_users.keys.enriched
    entry: Any = await redis.xadd(stream, {"id": "a:1"})
    async with open_client(await acl_users.add("reader")) as client:
        await client.xgroup_create(stream, "group", id="0")
        read: Any = await client.xreadgroup("group", "reader", {stream: ">"})
        assert read
        assert await client.xack(stream, "group", entry) == 1
        assert await client.xread({stream: "0"})
        for refused in (client.xadd(stream, {"id": "b:1"}), client.delete(stream)):
            with pytest.raises(NoPermissionError):
                await refused
        with pytest.raises(NoPermissionError):
            await client.zrange(acl_users.keys.backlog, 0, -1)
