"""Tests of next links: parameters are added, and unsafe links are not followed."""

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.enrich.models import Deployment, parse_deployment
from service.enrich.pagination import (
    API_ROOT,
    ApiRequest,
    UnsafeLink,
    is_complete,
    link_defaults,
    resolve_next_link,
)

ORIGIN = "https://app.launchdarkly.com"
DEFAULTS = link_defaults(project="default", environment="production")


def query_parameters(page: ApiRequest | UnsafeLink) -> dict[str, list[str]]:
    """Return the query parameters of a page."""
    assert isinstance(page, ApiRequest)
    return parse_qs(urlsplit(page.path).query)


def test_resolve_next_link_adds_missing_parameters() -> None:
    """The documented link carries only `after`. The API needs the project, and lists seven days."""
    page = resolve_next_link(f"{API_ROOT}pull-requests?after=abc", origin=ORIGIN, defaults=DEFAULTS)
    assert isinstance(page, ApiRequest)
    assert page.route == "pull-requests"
    assert query_parameters(page) == {
        "after": ["abc"],
        "projectKey": ["default"],
        "environmentKey": ["production"],
        "expand": ["deployments,flagReferences,leadTime"],
        "from": ["1"],
        "limit": ["100"],
    }


def test_resolve_next_link_keeps_the_parameters_of_the_link() -> None:
    """A limit and a project in the link stay, and a repeated parameter stays repeated."""
    href = f"{API_ROOT}deployments?after=a&limit=5&projectKey=other&x=1&x=2"
    parameters = query_parameters(resolve_next_link(href, origin=ORIGIN, defaults=DEFAULTS))
    assert (parameters["limit"], parameters["projectKey"], parameters["x"]) == (
        ["5"],
        ["other"],
        ["1", "2"],
    )


def test_resolve_next_link_to_the_own_host_is_followed() -> None:
    """Links with and without the host name the same page."""
    for href in (f"{ORIGIN}{API_ROOT}deployments?after=a", "deployments?after=a"):
        page = resolve_next_link(href, origin=ORIGIN, defaults=DEFAULTS)
        assert isinstance(page, ApiRequest)
        assert page.path.startswith(f"{API_ROOT}deployments?")


@pytest.mark.parametrize(
    "href",
    [
        "//evil.example/api/v2/engineering-insights/deployments",
        "https://evil.example/api/v2/engineering-insights/deployments",
        "https://app.launchdarkly.com@evil.example/api/v2/engineering-insights/deployments",
        "https://app.launchdarkly.com:8443/api/v2/engineering-insights/deployments",
        "http://app.launchdarkly.com/api/v2/engineering-insights/deployments",
        "https://user:pw@app.launchdarkly.com/api/v2/engineering-insights/deployments",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "\\\\evil.example\\deployments",
        "/api/v2/flags",
        "/api/v2/engineering-insights/../tokens",
        "/api/v2/engineering-insights/deployments/../../tokens",
        "/api/v2/engineering-insights/%2e%2e/tokens",
        "/api/v2/engineering-insights/deployments%2f..",
        "/api/v2/engineering-insights/deployments/some-id",
        "https://[::1/x",
        f"{API_ROOT}deployments?after=\r\nHost: evil",
        f"{API_ROOT}deployments?after={'a' * 5000}",
        "",
    ],
)
def test_resolve_next_link_of_a_hostile_link_returns_unsafe(href: str) -> None:
    """Each call carries the token, so only the two lists on LaunchDarkly's host are followed."""
    assert isinstance(resolve_next_link(href, origin=ORIGIN, defaults=DEFAULTS), UnsafeLink)


@given(st.text())
def test_resolve_next_link_of_any_text_stays_on_the_host_or_is_unsafe(text: str) -> None:
    """No text raises an exception or leads to another path."""
    for href in (text, f"{API_ROOT}{text}", f"{API_ROOT}deployments?{text}", f"https://{text}"):
        page = resolve_next_link(href, origin=ORIGIN, defaults=DEFAULTS)
        if isinstance(page, ApiRequest):
            assert urlsplit(page.path).path in {
                f"{API_ROOT}deployments",
                f"{API_ROOT}pull-requests",
            }
            assert page.path.isprintable()
            assert " " not in page.path


@pytest.mark.parametrize(
    ("body", "has_every_page"),
    [
        (b'{"id":"a"}', True),
        (b'{"id":"a","pullRequests":null}', True),
        (b'{"id":"a","pullRequests":{"totalCount":2,"items":[{}]}}', True),
        (
            b'{"id":"a","pullRequests":{"totalCount":1,"items":[{}],"_links":{"next":{"href":"x"}}}}',
            True,
        ),
        (
            b'{"id":"a","pullRequests":{"totalCount":2,"items":[{}],"_links":{"next":{"href":"x"}}}}',
            False,
        ),
        (b'{"id":"a","pullRequests":{"items":[{}],"_links":{"next":{"href":"x"}}}}', False),
        (
            b'{"id":"a","pullRequests":{"totalCount":2,"_links":{"next":null,"self":{"href":"x"}}}}',
            True,
        ),
        (
            (
                b'{"id":"a","pullRequests":{"totalCount":1,"items":[{"deployments":'
                b'{"totalCount":9,"items":[null],"_links":{"next":{"href":"x"}}}}]}}'
            ),
            False,
        ),
    ],
)
def test_is_complete_needs_no_link_or_a_reached_total(body: bytes, *, has_every_page: bool) -> None:
    """A further page needs a link and a total not yet reached, at both levels."""
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    assert is_complete(deployment) is has_every_page


def test_resolve_next_link_to_another_route_returns_unsafe() -> None:
    """A list of deployments does not continue with pull requests."""
    page = resolve_next_link(
        f"{API_ROOT}pull-requests?after=a", origin=ORIGIN, defaults={"list": {}}
    )
    assert isinstance(page, UnsafeLink)


def test_resolve_next_link_keeps_an_empty_parameter() -> None:
    """An empty parameter is neither dropped nor replaced."""
    page = resolve_next_link(
        f"{API_ROOT}deployments?after=a&expand=", origin=ORIGIN, defaults=DEFAULTS
    )
    assert isinstance(page, ApiRequest)
    assert page.path.count("expand=") == 1
    assert page.path.endswith("expand=")
