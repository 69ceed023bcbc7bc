"""Does LaunchDarkly answer us as it should? Judged from one cheap call."""

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from service.enrich.ratelimit import RateLimitWindow
from service.operate.doctor.finding import Finding, check_clock, fail, ok, warn

_LAUNCHDARKLY_CLOCK_TOLERANCE_S = 3.0  # Date has whole seconds, and the answer took its time
_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY_REQUESTS = 200, 401, 403, 404, 429
_LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}


class UpstreamFacts(Struct, frozen=True, kw_only=True):
    """What one call told. ``unasked`` says why there was none, ``silence`` why no answer came.

    ``project`` is the one whose deployments were listed; without it a deployment was asked for
    that cannot be there. ``is_json``: the body was a JSON object; ``words`` is what it said.
    """

    origin: str
    needs_token: bool = True
    has_token: bool = True
    skipped_reason: str = ""
    no_response_reason: str = ""
    status: int = 0
    is_json: bool = True
    message: str = ""
    project: str = ""
    clock_ahead_s: float | None = None
    windows: Sequence[RateLimitWindow] = ()


def check_upstream(facts: UpstreamFacts) -> Iterator[Finding]:
    """Judge reachability, token, beta header, clock and quota."""
    parts = urlsplit(facts.origin)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK_HOSTS:
        fix = "say https:// in ENRICHER_LAUNCHDARKLY_URL"
        yield warn("launchdarkly", "the token travels unencrypted", fix)
    if not facts.has_token:
        build_finding = fail if facts.needs_token else warn
        fix = "set LAUNCHDARKLY_ACCESS_TOKEN (a Reader role is enough); only `serve` needs none"
        yield build_finding("token", "is not set: LaunchDarkly was not asked", fix)
    elif facts.skipped_reason:
        yield ok("launchdarkly", f"not asked: {facts.skipped_reason}")
    elif facts.no_response_reason:
        fix = "check ENRICHER_LAUNCHDARKLY_URL, the name server, and what filters outgoing traffic"
        yield fail("launchdarkly", f"{facts.origin}: no answer ({facts.no_response_reason})", fix)
    else:
        yield from _check_response(facts)


def _check_response(facts: UpstreamFacts) -> Iterator[Finding]:
    status = facts.status
    expected = {_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY_REQUESTS}
    if status not in expected or (status in {_OK, _NOT_FOUND} and not facts.is_json):
        fix = "is ENRICHER_LAUNCHDARKLY_URL right? else see https://status.launchdarkly.com"
        body_kind = "JSON" if facts.is_json else "no JSON"
        yield fail("launchdarkly", f"{facts.origin} answers {status} with {body_kind}", fix)
        return
    yield ok("launchdarkly", f"{facts.origin} answers {status}")
    if status == _TOO_MANY_REQUESTS:
        yield warn("token", "cannot be told: the rate limit is reached", "try again later")
    else:
        yield from _check_access(facts)
    yield check_clock(
        "launchdarkly clock",
        facts.clock_ahead_s,
        clock_name="LaunchDarkly's clock",
        tolerance_s=_LAUNCHDARKLY_CLOCK_TOLERANCE_S,
    )
    yield _check_quota(facts.windows)


def _check_access(facts: UpstreamFacts) -> Iterator[Finding]:
    if facts.status == _UNAUTHORIZED:
        fix = "make a new one with a Reader role, and set LAUNCHDARKLY_ACCESS_TOKEN"
        yield fail("token", "is refused (401)", fix)
    elif facts.status == _FORBIDDEN and "beta" in facts.message.lower():
        fix = "does a proxy in between take the header LD-API-Version away?"
        yield fail("beta header", f"does not arrive: {facts.message}", fix)
    elif facts.status == _FORBIDDEN:
        fix = "give its role access to Engineering Insights (Reader has it)"
        yield fail("token", f"may not read deployments (403): {facts.message}", fix)
    else:
        yield ok("token", "is accepted")
        yield ok("beta header", "is accepted")
        if facts.project and facts.status == _NOT_FOUND:
            found = f"LaunchDarkly knows no project {facts.project!r}, or the token may not see it"
            yield warn("project", found, "mend `project` in the file of sources")


def _check_quota(windows: Sequence[RateLimitWindow]) -> Finding:
    if not windows:
        return ok("quota", "its headers say nothing: we feel our way")
    counts = ", ".join(
        f"{window.family} {window.remaining}{f' of {window.limit}' if window.limit else ''}"
        for window in windows
    )
    if any(window.remaining == 0 for window in windows):
        return warn("quota", f"calls left: {counts}", "others use it up: see ENRICHER_RATE_SHARE")
    return ok("quota", f"calls left: {counts}")
