"""Which deployments are wanted downstream? Names in, an objection or none out."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from service.accept.mapping import DeploymentCompleted, Event, Ignored


class DeploymentFilter(Struct, frozen=True, kw_only=True):
    """What is sent, by names or shell patterns such as ``payments-*``; nothing named: all of it.

    A name that is not known yet is objected to nowhere: LaunchDarkly will tell it.
    """

    applications: Sequence[str] = ()
    environments: Sequence[str] = ()
    outcomes: Sequence[str] = ()

    def rejection_reason(
        self, *, application: str | None, environment: str | None, outcome: str
    ) -> str | None:
        """Say what keeps a deployment from being sent; None when it is wanted."""
        for field, name, patterns in (
            ("application", application, self.applications),
            ("environment", environment, self.environments),
            ("outcome", outcome, self.outcomes),
        ):
            if patterns and name and not any(fnmatchcase(name, pattern) for pattern in patterns):
                return f"the {field} {name} is not among ENRICHER_INCLUDE_{field.upper()}S"
        return None

    def apply(self, event: Event) -> Event:
        """Ignore the event of a deployment that is not wanted; any other stays as it is."""
        if not isinstance(event, DeploymentCompleted):
            return event
        reason = self.rejection_reason(
            application=event.application, environment=event.environment, outcome=event.outcome
        )
        return event if reason is None else Ignored(reason, event.delivery)
