"""What does LaunchDarkly answer in every benchmark? One invented deployment under many names."""

from functools import cache

import msgspec
from msgspec.structs import replace

from service.simulate.deployment import PROJECT, Shape
from service.simulate.invention import invent_deployment
from service.simulate.pages import Pages, Style

APPLICATIONS = 10
STARTED_AT = 1_760_000_000_000
ENDED_AT = STARTED_AT + 600_000

_EXPAND = frozenset({"pullRequests", "flagReferences"})
_TEMPLATE = "b0eebc99-9c0b-4ef8-bb6d-000000000000"
_VERSION, _APPLICATION = "version-of-it", "application-of-it"


def name_deployment(number: int) -> str:
    """Give the id of a deployment."""
    return f"b0eebc99-9c0b-4ef8-bb6d-{number:012d}"


def name_application(number: int) -> str:
    """Give the application of a deployment: ten take turns."""
    return f"application-{number % APPLICATIONS}"


def name_version(number: int) -> str:
    """Give the version of a deployment, which is its own."""
    return f"v{number}"


def write_body(number: int, *, expanded: bool = True) -> bytes:
    """Write one deployment, with its pull requests and flags when they are asked for."""
    return (
        _template(expanded=expanded)
        .replace(_TEMPLATE.encode(), name_deployment(number).encode())
        .replace(_APPLICATION.encode(), name_application(number).encode())
        .replace(_VERSION.encode(), name_version(number).encode())
    )


@cache
def _template(*, expanded: bool) -> bytes:
    """Invent one deployment with four pull requests, as the simulator does."""
    shape = Shape(pull_requests=(4, 4))
    pages = Pages(Style(seed=1, shape=shape, page_size=20, nested_details=True))
    invented = replace(
        invent_deployment(1, _TEMPLATE, shape),
        project=PROJECT,
        application=_APPLICATION,
        version=_VERSION,
        started_at=STARTED_AT,
        ended_at=ENDED_AT,
    )
    return msgspec.json.encode(
        pages.write_deployment(invented, _EXPAND if expanded else frozenset())
    )
