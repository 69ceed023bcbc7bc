"""Tests of reconcile scopes that LaunchDarkly does not know: a warning names them."""

from collections.abc import Awaitable, Callable

import pytest

from service.reconcile.reconciler import NEVER_LISTED, UNKNOWN_SCOPE
from service.simulate.responses import Canned
from service.simulate.world import NewDeployment
from tests.end_to_end.harness import ServiceHarness

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


async def test_scope_of_which_nothing_was_ever_listed_is_reported_once(
    service: ServiceHarness, eventually: Eventually
) -> None:
    """One more call at the first run tells it from a scope without recent deployments."""
    service.simulator.add_deployment(NewDeployment(started_at=1_700_000_000_000))
    scopes = "defualt/production default/production"
    await service.open(reconcile_scopes=scopes, reconcile_interval=0.1)
    await service.add_reconciler()

    async def have_run_often() -> bool:
        return len(service.log_events("deployments_reconciled")) >= 8

    await eventually(have_run_often)
    (warning,) = service.log_events("reconcile_scope_empty")
    assert (warning["scope"], warning["reason"]) == ("defualt/production", NEVER_LISTED)


@pytest.mark.parametrize("status", [400, 404])
async def test_scope_that_launchdarkly_refuses_is_reported(
    service: ServiceHarness, eventually: Eventually, status: int
) -> None:
    """It is tried again at the next interval, not every ten seconds."""
    service.simulator.set_response("", Canned(status=status, body=b"{}"))
    await service.open(reconcile_scopes="default/prodution", reconcile_interval=600.0)
    await service.add_reconciler()

    async def has_failed() -> bool:
        return bool(service.log_events("reconcile_failed"))

    await eventually(has_failed)
    assert service.log_events("reconcile_failed")[0]["reason"] == UNKNOWN_SCOPE
