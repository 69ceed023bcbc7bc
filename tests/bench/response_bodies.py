"""The responses of the benchmark upstream: one generated deployment under many ids."""

from functools import cache

import msgspec
from msgspec.structs import replace

from service.simulate.generator import generate_deployment
from service.simulate.options import DEFAULT_PROJECT, Shape
from service.simulate.pages import PageRenderer, RenderConfig

APPLICATIONS = 10
LARGE_NUMBER = 10**9
"""From this number on, a deployment has 25 MB."""

_STARTED_AT = 1_760_000_000_000
_ENDED_AT = _STARTED_AT + 600_000

_LARGE_BYTES = 24 << 20
_EXPANDED_FIELDS = frozenset({"pullRequests", "flagReferences"})
_ID_PLACEHOLDER = "b0eebc99-9c0b-4ef8-bb6d-000000000000"
_VERSION_PLACEHOLDER, _APPLICATION_PLACEHOLDER = "version-placeholder", "application-placeholder"


def deployment_id_for(number: int) -> str:
    """Return the id of a deployment."""
    return f"b0eebc99-9c0b-4ef8-bb6d-{number:012d}"


def application_for(number: int) -> str:
    """Return the application of a deployment: one of ten."""
    return f"application-{number % APPLICATIONS}"


def version_for(number: int) -> str:
    """Return the version of a deployment, which is unique."""
    return f"v{number}"


def ended_at_for(number: int) -> int:
    """Return when a deployment ended (epoch ms): one after the other, as in one environment."""
    return _ENDED_AT + number


def encode_deployment(number: int, *, expanded: bool = True) -> bytes:
    """Return one deployment, with its pull requests and flags if expanded."""
    template = (
        _large_template() if number >= LARGE_NUMBER else _deployment_template(expanded=expanded)
    )
    return (
        template.replace(_ID_PLACEHOLDER.encode(), deployment_id_for(number).encode())
        .replace(_APPLICATION_PLACEHOLDER.encode(), application_for(number).encode())
        .replace(_VERSION_PLACEHOLDER.encode(), version_for(number).encode())
        .replace(b'"endedAt":%d' % _ENDED_AT, b'"endedAt":%d' % ended_at_for(number))
    )


@cache
def _large_template() -> bytes:
    """Return the same deployment with as many pull requests as fill 25 MB, all on one page."""
    deployment = msgspec.json.decode(_deployment_template(expanded=True))
    items = msgspec.json.encode(deployment["pullRequests"]["items"])
    repetitions = _LARGE_BYTES // len(items)
    deployment["pullRequests"]["items"] *= repetitions
    deployment["pullRequests"]["totalCount"] *= repetitions
    return msgspec.json.encode(deployment)


@cache
def _deployment_template(*, expanded: bool) -> bytes:
    """Return the JSON of one generated deployment with four pull requests."""
    shape = Shape(pull_requests=(4, 4))
    pages = PageRenderer(RenderConfig(seed=1, shape=shape, page_size=20, nested_details=True))
    deployment = replace(
        generate_deployment(1, _ID_PLACEHOLDER, shape),
        project=DEFAULT_PROJECT,
        application=_APPLICATION_PLACEHOLDER,
        version=_VERSION_PLACEHOLDER,
        started_at=_STARTED_AT,
        ended_at=_ENDED_AT,
    )
    return msgspec.json.encode(
        pages.render_deployment(deployment, _EXPANDED_FIELDS if expanded else frozenset())
    )
