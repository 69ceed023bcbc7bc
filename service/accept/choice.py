"""Which deployments are wanted downstream? Names in, an objection or none out."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from service.accept.events import DeploymentCompleted, Event, Ignored


class Only(Struct, frozen=True, kw_only=True):
    """What is sent, by names or shell patterns such as ``payments-*``; nothing named: all of it.

    A name that is not known yet is objected to nowhere: LaunchDarkly will tell it.
    """

    applications: Sequence[str] = ()
    environments: Sequence[str] = ()
    outcomes: Sequence[str] = ()

    def find_objection(
        self, *, application: str | None, environment: str | None, outcome: str
    ) -> str | None:
        """Say what keeps a deployment from being sent; None when it is wanted."""
        for kind, name, wanted in (
            ("application", application, self.applications),
            ("environment", environment, self.environments),
            ("outcome", outcome, self.outcomes),
        ):
            if wanted and name and not any(fnmatchcase(name, pattern) for pattern in wanted):
                return f"the {kind} {name} is not among ENRICHER_ONLY_{kind.upper()}S"
        return None

    def sift(self, event: Event) -> Event:
        """Ignore the event of a deployment that is not wanted; any other stays as it is."""
        if not isinstance(event, DeploymentCompleted):
            return event
        objection = self.find_objection(
            application=event.application, environment=event.environment, outcome=event.outcome
        )
        return event if objection is None else Ignored(objection, event.delivery)
