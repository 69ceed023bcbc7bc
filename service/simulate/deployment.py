"""What is known of one deployment before it is written? All times are epoch milliseconds."""

from typing import Annotated, Any, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]
Count = Annotated[int, msgspec.Meta(ge=0)]

DEFAULT_PROJECT = "default"
DEFAULT_ENVIRONMENT = "production"


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rich an invented deployment is. Pairs are (fewest, most)."""

    pull_requests: tuple[Count, Count] = (1, 4)
    """Pull requests of an ordinary deployment."""
    big_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Share of deployments that are big."""
    big_pull_requests: tuple[Count, Count] = (1_000, 5_000)
    """Pull requests of a big deployment."""
    deployments: tuple[Count, Count] = (1, 2)
    """Deployments that each pull request went out with."""
    flag_references: tuple[Count, Count] = (0, 3)
    """Flags touched by each pull request and each deployment."""
    novelties: bool = False
    """Add fields that nobody documents, at each level: a beta may."""


class SimulatedDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment. What is not said here is invented from its id."""

    id: str
    project: str = DEFAULT_PROJECT
    environment: str = DEFAULT_ENVIRONMENT
    application: str
    version: str
    started_at: int
    ended_at: int | None = None
    status: str = "finished"
    pull_requests: int
    metadata: Json = {}
    raw: Json | None = None
    """The whole answer, when somebody planted it word by word."""
