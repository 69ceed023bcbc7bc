"""A simulated CD system: it reports each deployment to LaunchDarkly and to a receiver."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from http import HTTPStatus
from random import Random
from typing import Any

import aiohttp
from msgspec import Struct

from service.log import EventLogger
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
# 401 is one: the receiver may read a new secret later than the pipeline.
_TEMPORARY_REFUSALS = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class PostRefused(Exception):
    """The receiver or LaunchDarkly refuses an event, and would refuse it again."""


class SendRate(Struct, frozen=True):
    """Deployments per second, and the number of deployments after which to stop (0: never)."""

    per_second: float
    max_events: int = 0


class PipelineTargets(Struct, frozen=True, kw_only=True):
    """The other sides of a pipeline, as functions.

    ``report`` sends an event to LaunchDarkly, ``post`` to a receiver with a delivery id.
    ``report_flag`` adds a flag event to the simulator.
    """

    report: Callable[[EventBody], Coroutine[Any, Any, None]]
    post: Callable[[EventBody, str], Awaitable[SendResult]]
    report_flag: Callable[[EventBody], Coroutine[Any, Any, None]]


class Pipeline:
    """Deploys by a plan at a rate, and counts the responses to its webhooks.

    The plan and the gaps follow from ``rng``. ``clock`` returns epoch seconds. Posts that fail are
    logged and repeated.
    """

    def __init__(
        self,
        targets: PipelineTargets,
        *,
        rate: SendRate,
        rng: Random,
        clock: Callable[[], float],
        log: EventLogger,
    ) -> None:
        self.received = 0
        self.queued = 0
        self.repeated = 0
        self._targets = targets
        self._rate = rate
        self._rng = rng
        self._clock = clock
        self._log = log
        self._plan = DeploymentPlan(rng)
        self._last_event_ms = 0

    async def deploy(self) -> None:
        """Deploy one application at random intervals, and regularly many applications at once.

        Raises PostRefused if the receiver or LaunchDarkly refuses an event.
        """
        try:
            await self._deploy()
        except ExceptionGroup as group:
            raise find_first_error(group) from None

    async def _deploy(self) -> None:
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
        async with asyncio.TaskGroup() as task_group:
            task_group.create_task(self._targets.report(event))
            for _ in range(deployment.post_count):
                task_group.create_task(self._post_until_accepted(event, deployment.delivery))

    async def _post_until_accepted(self, event: EventBody, delivery: str) -> None:
        async def post() -> int:
            status = (await self._targets.post(event, delivery)).status
            self.received += 1
            self.queued += status == HTTPStatus.ACCEPTED
            self.repeated += status == HTTPStatus.OK
            return status

        await _repeat_until_accepted(
            post,
            accepted={HTTPStatus.OK, HTTPStatus.ACCEPTED},
            on_failure=lambda reason: self._log.warning("webhook_post_failed", reason=reason),
            refusal="the receiver refuses a webhook with {status}; check --url and"
            " ENRICHER_WEBHOOK_SECRET",
        )


def find_first_error(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first error of a group that is no group itself."""
    error = group.exceptions[0]
    return find_first_error(error) if isinstance(error, ExceptionGroup) else error


async def _repeat_until_accepted(
    post: Callable[[], Awaitable[int]],
    *,
    accepted: Collection[int],
    on_failure: Callable[[str], object],
    refusal: str,
) -> None:
    """Post until the returned status is one of ``accepted``; ``on_failure`` receives each reason.

    Raises PostRefused with the text ``refusal``, in which ``{status}`` stands for the status.
    """
    while True:
        try:
            status = await post()
        except (aiohttp.ClientError, TimeoutError) as error:
            on_failure(str(error) or type(error).__name__)
        else:
            if status in accepted:
                return
            if _is_final_refusal(status):
                raise PostRefused(refusal.format(status=f"HTTP {status}"))
            on_failure(f"HTTP {status}")
        await asyncio.sleep(_RETRY_PAUSE_S)


def _is_final_refusal(status: int) -> bool:
    """Return whether a status refuses the post itself: repeating it would change nothing."""
    is_client_error = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    return is_client_error and status not in _TEMPORARY_REFUSALS


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
    session: aiohttp.ClientSession,
    upstream: str,
    event: EventBody,
    *,
    token: str,
    log: EventLogger,
) -> None:
    """Report an event to LaunchDarkly, and repeat the call until LaunchDarkly accepts it.

    Rate limits and an unreachable LaunchDarkly are logged and delay the report; they never drop it.
    Raises PostRefused if LaunchDarkly refuses the event.
    """

    async def post() -> int:
        async with session.post(
            upstream + EVENTS_PATH,
            json=event,
            headers={"Authorization": token},
            allow_redirects=False,
        ) as response:
            await response.read()
            return response.status

    await _repeat_until_accepted(
        post,
        accepted={HTTPStatus.CREATED},
        on_failure=lambda reason: log.warning("event_report_failed", reason=reason),
        refusal="LaunchDarkly refuses an event with {status}; check"
        " ENRICHER_LAUNCHDARKLY_URL and LAUNCHDARKLY_ACCESS_TOKEN",
    )


async def report_flag_event(
    session: aiohttp.ClientSession, upstream: str, event: EventBody
) -> None:
    """Add a flag event to the simulator; one that the simulator does not take is lost."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with session.post(upstream + FLAG_EVENTS_PATH, json=event) as response:
            await response.read()
