"""Every knob of the simulator, its default and its meaning."""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from service.simulate.quota import Limits
from service.simulate.rates import Rates

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


Milliseconds = Annotated[int, msgspec.Meta(ge=0)]
Bytes = Annotated[int, msgspec.Meta(ge=1)]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this LaunchDarkly behaves. The defaults are a friendly one without limits or faults."""

    token: str = "api-simulator"  # noqa: S105 -- a default for a table-top server, not a secret
    """The access token that callers send, bare, as `Authorization`."""
    seed: int = 1
    """Decides everything that is invented; with the same seed a run can be repeated."""
    auto_create: bool = True
    """Any well-formed UUID asked for by id exists (but for those that begin with 04040404)."""
    visible_after_ms: Milliseconds = 0
    """How long an event, or a conjured deployment first asked for, stays invisible."""
    grow_every_ms: Milliseconds = 0
    """A deployment made known is seen with one pull request, and one more joins each time that so
    much has passed, until all are there; 0: all are there at once. Conjured ones do not grow."""
    nested_page_size: Annotated[int, msgspec.Meta(ge=1)] = 20
    """Items on each page of a collection inside a deployment or a pull request."""
    nested_details: bool = True
    """Pull requests inside a deployment come with their own deployments, flags and lead time, as
    in the documented example; otherwise only where List pull requests is asked to expand them."""
    list_links: Literal["bare", "full"] = "bare"
    """`next` of a list repeats only the cursor, as documented, or all parameters of the call."""
    latency_ms: tuple[Milliseconds, Milliseconds] = (0, 0)
    """Shortest and longest time that an answer takes; a 429 comes at once."""
    notice_ms: Milliseconds = 250
    """How long after a 429 callers may not have heard of it: calls in this time are no breach."""
    lure_url: str = "http://lure.invalid"
    """Where faults try to lead a caller: scheme and host, no path."""
    oversized_bytes: Bytes = 64 * 1024 * 1024
    """Length of an oversized body."""
    drip_bytes: Bytes = 16
    """Bytes of each drop of a dripping body."""
    drip_every_ms: Milliseconds = 200
    """Time between two drops."""
    quota: Limits = Limits()
    """Rate limits."""
    faults: Rates = Rates()
    """What goes wrong how often."""
    shape: Shape = Shape()
    """How rich the invented deployments are."""


def apply_changes(options: Options, changes: bytes) -> Options | str:
    """Apply a JSON object of the changed fields only, at any depth; a string says what is wrong."""
    try:
        changed_fields = msgspec.json.decode(changes, type=dict[str, Any])
        return msgspec.convert(_merge(msgspec.to_builtins(options), changed_fields), Options)
    except msgspec.MsgspecError as error:
        return str(error)


def _merge(current: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(current)
    for key, value in changes.items():
        match current.get(key), value:
            case dict() as nested, dict():
                merged[key] = _merge(nested, value)
            case _:
                merged[key] = value
    return merged
