"""The flag events of the simulated LaunchDarkly, and their list call. Times are epoch milliseconds.

Fields, parameters and defaults are those of LaunchDarkly's OpenAPI document (tag "Insights flag
events (beta)"). LaunchDarkly does not document the order: the simulator lists the newest first.
The impact of an event is `waiting` at first, and is computed later. Everything that a control call
does not name follows from a seed and the number of the event.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from service.simulate.generator import SeededRandom, seeded_hex, seeded_uuid
from service.simulate.listing import ListPage, ListQuery, paginate, parse_query
from service.simulate.options import DEFAULT_ENVIRONMENT, DEFAULT_PROJECT, Json
from service.simulate.responses import FieldError, SimulatedResponse, json_response

Key = Annotated[str, msgspec.Meta(min_length=1)]

_MAX_EVENTS = 20_000
_MAX_SMALL, _MAX_MEDIUM = 20, 80  # percent: above them the impact is medium, then large


class NewFlagEvent(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A flag event to add: what happened to one flag in one environment.

    The omitted time is now. `application_keys` are the applications that evaluate the flag; none
    stands for all. `impact_after_ms` is the time after the event at which its impact is computed;
    omitted, it is the option of the simulator.
    """

    flag_key: Key
    project_key: Key = DEFAULT_PROJECT
    environment_key: Key = DEFAULT_ENVIRONMENT
    event_type: str = "enabled_targeting"
    event_time: int | None = None
    description: str = "Turned on targeting"
    actions: tuple[str, ...] = ("updateOn",)
    member_email: str = "test@launchdarkly.com"
    application_keys: tuple[str, ...] = ()
    impact_after_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    is_global: bool = False


class FlagEventConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The options that decide how flag events look, and when they and their impact appear."""

    seed: int
    visible_after_ms: int
    impact_after_ms: int
    novelties: bool


class SimulatedFlagEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One flag event, and from when on it is listed."""

    id: str
    occurred_at: int
    visible_at: int
    fields: NewFlagEvent


class FlagEventLog:
    """All flag events, the last 20,000 at most."""

    def __init__(self, config: FlagEventConfig) -> None:
        self.config = config
        self._events: dict[str, SimulatedFlagEvent] = {}
        self._count = 0

    def add(self, new_event: NewFlagEvent, now: int) -> str:
        """Add an event and return its id."""
        config = self.config
        identifier = seeded_uuid(config.seed, "flag event", self._count)
        self._count += 1
        occurred_at = now if new_event.event_time is None else new_event.event_time
        if len(self._events) >= _MAX_EVENTS:
            self._events.pop(next(iter(self._events)))
        self._events[identifier] = SimulatedFlagEvent(
            id=identifier,
            occurred_at=occurred_at,
            visible_at=now + config.visible_after_ms,
            fields=new_event,
        )
        return identifier

    def add_from_json(self, body: bytes, now: int) -> SimulatedResponse:
        """Add the event of a control call. Return 201 with its id, or 400 with what is wrong."""
        try:
            new_event = msgspec.json.decode(body, type=NewFlagEvent)
        except msgspec.MsgspecError as error:
            return json_response({"message": str(error)}, status=400)
        return json_response({"id": self.add(new_event, now)}, status=201)

    def list_events(
        self, parameters: Mapping[str, str], now: int
    ) -> ListPage | tuple[FieldError, ...]:
        """Return a page of the events of one environment, the newest first."""
        query = parse_query(parameters, ("projectKey", "environmentKey"), now)
        if isinstance(query, tuple):
            return query
        found = [
            event
            for event in self._events.values()
            if event.visible_at <= now
            and _is_selected(event, query)
            and self._has_impact(event, parameters, now)
        ]
        found.sort(key=lambda event: (-event.occurred_at, event.id))
        return paginate(
            found,
            query,
            item_id=lambda event: event.id,
            render=lambda event: self._render(event, query, now),
        )

    def _has_impact(
        self, event: SimulatedFlagEvent, parameters: Mapping[str, str], now: int
    ) -> bool:
        size = parameters.get("impactSize", "")
        if size and self._render_impact(event, now).get("size") != size:
            return False
        if parameters.get("global") == "exclude" and event.fields.is_global:
            return False
        return parameters.get("hasExperiments") != "true"  # no event has one

    def _render(self, event: SimulatedFlagEvent, query: ListQuery, now: int) -> Json:
        """Return a `FlagEventRep`."""
        fields, seed = event.fields, self.config.seed
        name, _, _ = fields.member_email.partition("@")
        rendered: Json = {
            "id": event.id,
            "projectId": seeded_hex(seed, "project", fields.project_key)[:24],
            "projectKey": fields.project_key,
            "environmentId": seeded_hex(seed, "environment", fields.environment_key)[:24],
            "environmentKey": fields.environment_key,
            "flagKey": fields.flag_key,
            "eventType": fields.event_type,
            "eventTime": event.occurred_at,
            "description": fields.description,
            "auditLogEntryId": seeded_uuid(seed, event.id, "audit log"),
            "member": {
                "id": seeded_hex(seed, "member", fields.member_email)[:24],
                "email": fields.member_email,
                "firstName": name.partition(".")[0].title(),
                "lastName": name.rpartition(".")[2].title(),
            },
            "actions": list(fields.actions),
            "impact": self._render_impact(event, now),
        }
        if "experiments" in query.expand:
            rendered["experiments"] = {"totalCount": 0, "items": []}
        if self.config.novelties:
            rendered["rollbackRisk"] = 0.25
        return rendered

    def _render_impact(self, event: SimulatedFlagEvent, now: int) -> Json:
        """Return a `FlagEventImpactRep`: its reason is `waiting` until it is computed."""
        impact_after_ms = event.fields.impact_after_ms
        if impact_after_ms is None:
            impact_after_ms = self.config.impact_after_ms
        if now < event.occurred_at + impact_after_ms:
            return {"reason": "waiting"}
        rng = SeededRandom(self.config.seed, event.id, "impact")
        percentage, total = rng.between(1, 100), rng.between(100, 9_999)
        size = "large" if percentage > _MAX_MEDIUM else "medium"
        moved = total * percentage // 100
        return {
            "size": size if percentage > _MAX_SMALL else "small",
            "percentage": percentage,
            "reason": "global" if event.fields.is_global else "evaluations",
            "evaluationsSummary": {
                "variations": [
                    {"value": "true", "before": 0, "after": moved},
                    {"value": "false", "before": total, "after": total - moved},
                ]
            },
        }


def _is_selected(event: SimulatedFlagEvent, query: ListQuery) -> bool:
    """Return whether the documented filters let an event through; `query` is a part of its flag."""
    fields = event.fields
    return (
        fields.project_key == query.project
        and fields.environment_key == query.environment
        and query.start <= event.occurred_at <= query.end
        and query.text.lower() in fields.flag_key.lower()
        and not (
            query.applications
            and fields.application_keys
            and query.applications.isdisjoint(fields.application_keys)
        )
    )
