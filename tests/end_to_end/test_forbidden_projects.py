"""Stories of a project that the access token may not read, beside projects that it may."""

import time
import zlib
from typing import Any

from msgspec.structs import replace

from service.simulate.options import Options
from service.simulate.world import NewDeployment
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness
from tests.factories import deployment_id

Event = dict[str, object]
LOCKED = Options(forbidden_projects=("locked",))


def add_deployment(
    service: ServiceHarness, project: str, version: str, *, ago_s: float = 60.0
) -> None:
    """Let LaunchDarkly know a deployment of the event's application that started some time ago."""
    service.simulator.add_deployment(
        NewDeployment(
            project=project,
            environment="production",
            application="billing-service",
            version=version,
            started_at=int((time.time() - ago_s) * 1000),
        )
    )


async def read_readiness(service: ServiceHarness) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of ``/readyz``."""
    async with service.session.get(f"{service.receiver_url}/readyz") as response:
        return response.status, await response.json()


async def test_forbidden_project_delays_no_other_project(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """Five tickets are published behind twelve forbidden ones, which wait until access is given."""
    service.simulator.options = LOCKED
    for number in range(17):
        add_deployment(service, "locked" if number < 12 else "default", f"v{number}")
    await service.open()
    for number in range(17):
        project = "locked" if number < 12 else "default"
        await service.post({**event, "projectKey": project, "version": f"v{number}"})

    async def are_others_published() -> bool:
        return len(await service.records()) == 5

    await eventually(are_others_published)
    assert {record["projectkey"] for record in await service.records()} == {"default"}
    budget = await service.redis.hgetall(service.keys.budget)
    assert not {b"closed_until", b"closed_reason"} & budget.keys()
    assert await service.redis.zcard(service.keys.backlog) == 12
    status, body = await read_readiness(service)
    assert (status, body["status"]) == (200, "ready")
    assert "locked/production" in body["warnings"][0]
    service.simulator.options = replace(LOCKED, forbidden_projects=())
    await eventually(service.is_done)
    assert len(await service.records()) == 17
    assert "warnings" not in (await read_readiness(service))[1]
    assert {line["reason"] for line in service.log_events("deployment_postponed")} == {"forbidden"}


async def test_reconciliation_of_a_forbidden_scope_waits_for_its_interval(
    service: ServiceHarness, eventually: Eventually
) -> None:
    """The other scope is listed meanwhile, and the checkpoint of the forbidden one stays."""
    service.simulator.options = LOCKED
    add_deployment(service, "default", "v1", ago_s=3600)
    scopes = "locked/production default/production"
    await service.open(reconcile_scopes=scopes, reconcile_interval=600.0)
    await service.add_reconciler()

    async def is_published() -> bool:
        return len(await service.records()) == 1

    await eventually(is_published)
    failed = service.log_events("reconcile_failed")
    assert [(line["scope"], line["reason"]) for line in failed] == [
        ("locked/production", "forbidden")
    ]
    assert await service.redis.hget(service.keys.reconcile("locked/production"), "ran") is None
    assert await service.redis.hget(service.keys.budget, "closed_until") is None


async def test_forbidden_ticket_fails_at_its_deadline_with_the_response(
    service: ServiceHarness, event: Event, eventually: Eventually
) -> None:
    """The failed ticket keeps the response; one known only by its id is named by the id."""
    service.simulator.options = Options(forbidden_projects=("default",))
    await service.open(not_found_timeout=0.5)
    await service.post({"deploymentId": deployment_id(), "eventType": "finished"})
    await service.post({**event, "projectKey": "default"})

    async def have_both_failed() -> bool:
        return len(service.log_events("deployment_failed")) == 2

    await eventually(have_both_failed)
    failures = service.log_events("deployment_failed")
    assert {line["reason"] for line in failures} == {"forbidden"}
    assert len(await service.failed_jobs()) == 2
    for job in await service.failed_jobs():
        stored = await service.redis.hget(service.keys.failed_raw, job)
        assert b"Access to the requested resource was denied" in zlib.decompress(stored)  # type: ignore[arg-type] # bytes
    status, body = await read_readiness(service)
    assert status == 200
    assert f"deployment {deployment_id()}" in body["warnings"][0]
