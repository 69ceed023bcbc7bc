"""Every option of the simulator, with its default and its meaning."""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from service.simulate.quota import Limits
from service.simulate.rates import Rates

Json: TypeAlias = dict[str, Any]
Count = Annotated[int, msgspec.Meta(ge=0)]

DEFAULT_PROJECT = "default"
DEFAULT_ENVIRONMENT = "production"


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a generated deployment contains. Pairs are (minimum, maximum)."""

    pull_requests: tuple[Count, Count] = (1, 4)
    """Pull requests of an ordinary deployment."""
    big_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Share of the deployments that are big, 0 to 1."""
    big_pull_requests: tuple[Count, Count] = (1_000, 5_000)
    """Pull requests of a big deployment."""
    deployments: tuple[Count, Count] = (1, 2)
    """Deployments that contain each pull request."""
    flag_references: tuple[Count, Count] = (0, 3)
    """Flag references of each pull request and of each deployment."""
    novelties: bool = False
    """Add undocumented fields at each level, as a beta API may."""


class SimulatedDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment. The generator derives everything else from its id."""

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
    """The exact response, for a deployment that was added with one."""


Milliseconds = Annotated[int, msgspec.Meta(ge=0)]
Bytes = Annotated[int, msgspec.Meta(ge=1)]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The behaviour of the simulator. By default it has no rate limits and no faults."""

    token: str = "api-simulator"  # noqa: S105 -- the default of a simulator, not a secret
    """The access token that callers send as `Authorization`, without `Bearer`; or several."""
    reader_tokens: tuple[str, ...] = ()
    """Those of the tokens that have the role Reader: posting an event answers 403."""
    seed: int = 1
    """Decides everything that is generated. The same seed gives the same deployments."""
    forbidden_projects: tuple[str, ...] = ()
    """Projects that the token may not read, as `project` or `project/environment`. Their
    deployments, pull requests and flag events answer 403. Events for them are still accepted."""
    auto_create: bool = True
    """Every UUID requested by id exists, except those that begin with 04040404."""
    visible_after_ms: Milliseconds = 0
    """How long the change of an event stays invisible. An automatically created deployment stays
    invisible for the same time after the first request for it."""
    events_visible_after_ms: Milliseconds | None = None
    """The same for events alone. Without it, `visible_after_ms` is for both."""
    grow_every_ms: Milliseconds = 0
    """Time after which a deployment shows one more pull request, until it shows all. 0: it shows
    all at once. Automatically created deployments do not grow."""
    flag_impact_after_ms: Milliseconds = 600_000
    """Time after a flag event at which its impact is computed; before, its reason is `waiting`."""
    nested_page_size: Annotated[int, msgspec.Meta(ge=1)] = 20
    """Items on each page of a collection in a deployment or a pull request."""
    nested_details: bool = True
    """Pull requests in a deployment include their deployments, flags and lead time, as in the
    documented example. Otherwise only List pull requests can expand these."""
    list_links: Literal["bare", "full"] = "bare"
    """`bare`: `next` of a list has only the cursor, as documented. `full`: it also repeats the
    parameters of the call."""
    latency_ms: tuple[Milliseconds, Milliseconds] = (0, 0)
    """Shortest and longest time until a response; a 429 comes at once."""
    notice_ms: Milliseconds = 250
    """Time that a 429 may need to reach all callers. The stats do not count calls in this time as
    calls to a closed window."""
    lure_url: str = "http://lure.invalid"
    """Target of hostile redirects and links: scheme and host, no path."""
    oversized_bytes: Bytes = 64 * 1024 * 1024
    """Length of an oversized body."""
    drip_bytes: Bytes = 16
    """Bytes of each chunk of a slow body."""
    drip_every_ms: Milliseconds = 200
    """Time between two chunks of a slow body."""
    quota: Limits = Limits()
    """Rate limits."""
    faults: Rates = Rates()
    """How often each fault happens."""
    shape: Shape = Shape()
    """How much the generated deployments contain."""


def apply_changes(options: Options, changes: bytes) -> Options | str:
    """Return the options with a JSON object of changed fields merged in at any depth.

    Return an error message instead when the JSON, a field name or a value is invalid.
    """
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
