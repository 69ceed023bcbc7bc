"""The filter for wanted deployments, by application, environment and outcome."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from service.accept.mapping import DeploymentEvent, Event, Ignored


class DeploymentFilter(Struct, frozen=True, kw_only=True):
    """Names or shell patterns such as ``payments-*`` of wanted deployments; empty: all of them.

    An unknown name (None) passes every filter, since LaunchDarkly may still name it.
    """

    applications: Sequence[str] = ()
    environments: Sequence[str] = ()
    outcomes: Sequence[str] = ()

    def rejection_reason(
        self, *, application: str | None, environment: str | None, outcome: str
    ) -> str | None:
        """Return why a deployment is not wanted; None if it is."""
        for field, name, patterns in (
            ("application", application, self.applications),
            ("environment", environment, self.environments),
            ("outcome", outcome, self.outcomes),
        ):
            if patterns and name and not any(fnmatchcase(name, pattern) for pattern in patterns):
                return f"the {field} {name} is not among ENRICHER_INCLUDE_{field.upper()}S"
        return None

    def apply(self, event: Event) -> Event:
        """Return Ignored for the event of an unwanted deployment, any other event unchanged."""
        if not isinstance(event, DeploymentEvent):
            return event
        outcome = "" if event.outcome == "started" else event.outcome  # nobody knows how it ends
        reason = self.rejection_reason(
            application=event.application, environment=event.environment, outcome=outcome
        )
        return event if reason is None else Ignored(reason, event.delivery)
