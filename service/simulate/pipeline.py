"""A simulated CD system: it reports each deployment to LaunchDarkly and to a receiver."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from random import Random
from typing import Any

import aiohttp
from msgspec import Struct

from service.simulate.plan import (
    PLAN_PROJECT,
    DeploymentPlan,
    PlannedDeployment,
    PlannedFlagChange,
    PlanStep,
)
from service.simulate.send import SendResult

EventBody = dict[str, object]

EVENTS_PATH = "/api/v2/engineering-insights/deployment-events"
FLAG_EVENTS_PATH = "/simulator/flag-events"

_RETRY_PAUSE_S = 0.5
_IMPACT_AFTER_MS = 20_000


class SendRate(Struct, frozen=True):
    """Deployments per second, and the number of deployments after which to stop (0: never)."""

    per_second: float
    max_events: int = 0


class PipelineTargets(Struct, frozen=True, kw_only=True):
    """The other sides of a pipeline, as functions.

    ``report`` sends an event to LaunchDarkly, ``post`` to a receiver with a delivery id.
    ``report_flag`` adds a flag event to the simulator.
    """

    report: Callable[[EventBody], Awaitable[None]]
    post: Callable[[EventBody, str], Awaitable[SendResult]]
    report_flag: Callable[[EventBody], Coroutine[Any, Any, None]]


class Pipeline:
    """Deploys by a plan at a rate, and counts the responses to its webhooks.

    The plan and the gaps follow from ``rng``. ``clock`` returns epoch seconds.
    """

    def __init__(
        self,
        targets: PipelineTargets,
        *,
        rate: SendRate,
        rng: Random,
        clock: Callable[[], float],
    ) -> None:
        self.received = 0
        self.queued = 0
        self.repeated = 0
        self._targets = targets
        self._rate = rate
        self._rng = rng
        self._clock = clock
        self._plan = DeploymentPlan(rng)
        self._last_event_ms = 0

    async def deploy(self) -> None:
        """Deploy one application at random intervals, and regularly many applications at once."""
        sent, max_events = 0, self._rate.max_events
        async with asyncio.TaskGroup() as task_group:
            while not max_events or sent < max_events:
                step = self._draw_step(max_events - sent if max_events else None)
                for deployment in step.deployments:
                    event = build_event(deployment, time_ms=self._next_event_ms())
                    task_group.create_task(self._report_and_post(deployment, event))
                for change in step.flag_changes:
                    body = build_flag_event(change, time_ms=self._next_event_ms())
                    task_group.create_task(self._targets.report_flag(body))
                count = len(step.deployments)
                sent += count
                gap = count if count > 1 else self._rng.expovariate(1.0)
                await asyncio.sleep(gap / self._rate.per_second)

    def _draw_step(self, max_deployments: int | None) -> PlanStep:
        if max_deployments is None:
            return self._plan.draw_step()
        return self._plan.draw_step(max_deployments=max_deployments)

    def _next_event_ms(self) -> int:
        """Return the time of an event (epoch ms); no two events have the same."""
        self._last_event_ms = max(int(self._clock() * 1000), self._last_event_ms + 1)
        return self._last_event_ms

    async def _report_and_post(self, deployment: PlannedDeployment, event: EventBody) -> None:
        """Report one deployment and post its webhook, sometimes twice."""
        posts = (
            self._post_until_accepted(event, deployment.delivery)
            for _ in range(deployment.post_count)
        )
        await asyncio.gather(self._targets.report(event), *posts)

    async def _post_until_accepted(self, event: EventBody, delivery: str) -> None:
        while True:
            try:
                status = (await self._targets.post(event, delivery)).status
            except (aiohttp.ClientError, TimeoutError):
                status = 0
            self.received += status > 0
            self.queued += status == HTTPStatus.ACCEPTED
            self.repeated += status == HTTPStatus.OK
            if status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
                return
            await asyncio.sleep(_RETRY_PAUSE_S)


def build_event(deployment: PlannedDeployment, *, time_ms: int) -> EventBody:
    """Return the event of a deployment that ended at a time (epoch ms), as pipelines post it."""
    return {
        "projectKey": PLAN_PROJECT,
        "environmentKey": deployment.environment,
        "applicationKey": deployment.application,
        "version": deployment.version,
        "eventType": "finished" if deployment.succeeds else "failed",
        "eventTime": time_ms,
        "eventMetadata": {"pipeline": "demo", "run": deployment.run},
    }


def build_flag_event(change: PlannedFlagChange, *, time_ms: int) -> EventBody:
    """Return the control call of the simulator that adds a flag change at a time (epoch ms)."""
    verb = "Turned on" if change.is_on else "Turned off"
    return {
        "projectKey": PLAN_PROJECT,
        "environmentKey": change.environment,
        "flagKey": change.flag_key,
        "eventType": "enabled_targeting" if change.is_on else "disabled_targeting",
        "eventTime": time_ms,
        "description": f"{verb} targeting",
        "actions": ["updateOn"],
        "memberEmail": change.member_email,
        "impactAfterMs": _IMPACT_AFTER_MS,
    }


async def report_event(
    session: aiohttp.ClientSession, upstream: str, event: EventBody, *, token: str
) -> None:
    """Report an event to LaunchDarkly, and repeat the call until LaunchDarkly accepts it.

    Rate limits and an unreachable LaunchDarkly delay the report; they never drop it.
    """
    while True:
        try:
            async with session.post(
                upstream + EVENTS_PATH, json=event, headers={"Authorization": token}
            ) as response:
                await response.read()
            if response.status == HTTPStatus.CREATED:
                return
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(_RETRY_PAUSE_S)


async def report_flag_event(
    session: aiohttp.ClientSession, upstream: str, event: EventBody
) -> None:
    """Add a flag event to the simulator; one that the simulator does not take is lost."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with session.post(upstream + FLAG_EVENTS_PATH, json=event) as response:
            await response.read()
