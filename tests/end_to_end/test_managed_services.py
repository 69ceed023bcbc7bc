"""Tests with managed services: each takes and publishes a webhook, or is refused with the truth."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from redis.asyncio import Redis

from service.cli import doctor
from service.settings import Secret
from service.store import RedisMisconfigured
from service.store.keys import Keys
from service.store.services import SERVICES, Durability
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness, open_harness
from tests.factories import deployment_id
from tests.store.restricted_proxy import RestrictedProxy
from tests.store.service_profiles import BAD_SCRIPT, PROFILES, ServiceProfile
from tests.tcp_proxy import connect_to_socket

OpenProfile = Callable[[ServiceProfile], AbstractAsyncContextManager["RestrictedService"]]

DOCS = Path(__file__).resolve().parents[2] / "docs"
CASES = [
    pytest.param(profile, durability, refusal, id=f"{profile.name}-{durability}")
    for profile in PROFILES
    for durability, refusal in profile.outcomes.items()
]


class RestrictedService(NamedTuple):
    """A managed service: the proxy that plays it, and its URL."""

    proxy: RestrictedProxy
    url: str


@pytest.fixture
async def open_profile(redis: Redis, redis_url: str, keys: Keys) -> AsyncIterator[OpenProfile]:
    """Return a context manager that starts a service of the given profile in front of Redis."""
    user = f"profile-{keys.namespace}"

    @asynccontextmanager
    async def open_restricted(profile: ServiceProfile) -> AsyncIterator[RestrictedService]:
        rules = ("on", ">secret", "~*", "&*", "+@all", *profile.acl.split())
        await redis.execute_command("ACL", "SETUSER", user, *rules)  # type: ignore[no-untyped-call] # redis-py
        proxy = RestrictedProxy(
            connect_to_socket(Path(redis_url.removeprefix("unix://"))),
            profile.replies,
            rejected_script=profile.rejected_script,
            script_reply=BAD_SCRIPT,
            info=profile.info,
        )
        async with proxy:
            yield RestrictedService(proxy, f"redis://{user}:secret@{proxy.address}/0")

    yield open_restricted
    await redis.execute_command("ACL", "DELUSER", user)  # type: ignore[no-untyped-call] # redis-py


@pytest.mark.parametrize(("profile", "durability", "refusal"), CASES)
async def test_managed_service_publishes_a_webhook_or_is_refused_with_the_truth(
    redis: Redis,
    keys: Keys,
    open_profile: OpenProfile,
    eventually: Eventually,
    profile: ServiceProfile,
    durability: Durability,
    refusal: str,
) -> None:
    """What a service hides or lacks is no reason to refuse it, if webhooks can be kept there."""
    async with (
        open_profile(profile) as managed,
        open_harness(
            redis, keys.namespace, redis_url=Secret(managed.url), durability=durability
        ) as service,
    ):
        if refusal:
            with pytest.raises(RedisMisconfigured, match=refusal):
                await service.open()
            return
        await service.open()
        event = {"deploymentId": deployment_id(1), "eventType": "finished"}
        assert (await service.post(event))[0] == 202
        await eventually(lambda: _has_records(service, 1))
        assert not managed.proxy.seen & {"HELLO", "SELECT", "COMMAND", "ACL", "CLUSTER"}


async def _has_records(service: ServiceHarness, count: int) -> bool:
    return len(await service.records()) == count


async def test_doctor_names_a_managed_service_and_what_it_promises(
    redis: Redis, keys: Keys, open_profile: OpenProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the fix, because a Redis that does not fit is an error."""
    profile = next(profile for profile in PROFILES if profile.name == "dragonfly")
    async with (
        open_profile(profile) as managed,
        open_harness(redis, keys.namespace, redis_url=Secret(managed.url)) as service,
    ):
        await doctor.run_doctor(service.settings, service.log)
    report = " ".join(capsys.readouterr().out.split())
    assert "Dragonfly: the disk has snapshots only" in report
    assert "Redis cannot confirm that a write is on disk" in report
    assert "Add a replica and set ENRICHER_DURABILITY=replica" in report


def test_every_service_and_its_durability_are_in_the_operations_table() -> None:
    """The table in the documentation names what the code advises."""
    table = (DOCS / "operations.md").read_text().partition("### Managed services")[2]
    for service in SERVICES:
        row = next(line for line in table.splitlines() if line.startswith(f"| {service.name} |"))
        assert all(f"`{durability}`" in row for durability in service.fits)
