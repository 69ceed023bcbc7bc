"""Posted deployment events. Times are epoch milliseconds.

Body and rules are those of `PostDeploymentEventInput`. The response is 201 without a body, so the
caller never learns the id of the deployment.
"""

from typing import Annotated, Any, Literal, assert_never

import msgspec

from service.simulate.reported_events import ReportedEvent
from service.simulate.responses import (
    FieldError,
    SimulatedResponse,
    invalid_request,
    malformed_json,
)
from service.simulate.world import NewDeployment, World

Key = Annotated[str, msgspec.Meta(min_length=1)]
Version = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]+\Z")]
_REQUIRED = ("projectKey", "environmentKey", "applicationKey", "version", "eventType")


class PostedEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One deployment event, as a pipeline posts it. Unknown fields are ignored."""

    project_key: Key
    environment_key: Key
    application_key: Key
    version: Version
    event_type: Literal["started", "failed", "finished", "custom"]
    application_name: str = ""
    application_kind: Literal["server", "browser", "mobile"] = "server"
    version_name: str = ""
    event_time: int | None = None
    event_metadata: dict[str, Any] = {}
    deployment_metadata: dict[str, Any] = {}


def apply_event(world: World, body: bytes, now: int) -> SimulatedResponse:
    """Start or end the deployment of one event; accept `custom` and change nothing."""
    event = _parse_event(body)
    if isinstance(event, SimulatedResponse):
        return event
    new_deployment = NewDeployment(
        project=event.project_key,
        environment=event.environment_key,
        application=event.application_key,
        version=event.version,
        started_at=event.event_time,
        status=event.event_type,
    )
    _record_reported(world, event)
    match event.event_type:
        case "started":
            world.start(new_deployment, event.deployment_metadata, now)
        case "finished" | "failed":
            world.end(new_deployment, event.deployment_metadata, now)
        case "custom":
            pass
        case _:
            assert_never(event.event_type)
    return SimulatedResponse(status=201, headers={})


def _record_reported(world: World, event: PostedEvent) -> None:
    if event.event_type == "custom" or event.event_time is None:
        return
    world.reported_events.record(
        ReportedEvent(
            project=event.project_key,
            environment=event.environment_key,
            application=event.application_key,
            version=event.version,
            is_end=event.event_type != "started",
            time=event.event_time,
        )
    )


def _parse_event(body: bytes) -> PostedEvent | SimulatedResponse:
    try:
        raw = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        return malformed_json()
    missing = [name for name in _REQUIRED if not raw.get(name)]
    if missing:
        return invalid_request(
            [FieldError(attribute=name, reason="must be present") for name in missing]
        )
    try:
        return msgspec.convert(raw, PostedEvent)
    except msgspec.ValidationError as error:
        reason, _, field = str(error).partition(" - at `$.")
        return invalid_request([FieldError(attribute=field.strip("`"), reason=reason)])
