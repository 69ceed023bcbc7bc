"""Does LaunchDarkly answer us as it should? Judged from one cheap call."""

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from service.enrich.ratelimit import Window
from service.operate.doctor.finding import Finding, find_odd, find_well, find_wrong, judge_clock

_BLUR_S = 3.0  # Date has whole seconds, and the answer took its time
_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = 200, 401, 403, 404, 429
_OURS = {"127.0.0.1", "localhost", "::1"}


class UpstreamFacts(Struct, frozen=True, kw_only=True):
    """What one call told. ``unasked`` says why there was none, ``silence`` why no answer came.

    ``project`` is the one whose deployments were listed; without it a deployment was asked for
    that cannot be there. ``is_json``: the body was a JSON object; ``words`` is what it said.
    """

    origin: str
    needs_token: bool = True
    has_token: bool = True
    unasked: str = ""
    silence: str = ""
    status: int = 0
    is_json: bool = True
    words: str = ""
    project: str = ""
    ahead_s: float | None = None
    windows: Sequence[Window] = ()


def judge_upstream(facts: UpstreamFacts) -> Iterator[Finding]:
    """Judge reachability, token, beta header, clock and quota."""
    parts = urlsplit(facts.origin)
    if parts.scheme == "http" and parts.hostname not in _OURS:
        fix = "say https:// in ENRICHER_LAUNCHDARKLY_URL"
        yield find_odd("launchdarkly", "the token travels unencrypted", fix)
    if not facts.has_token:
        judge = find_wrong if facts.needs_token else find_odd
        fix = "set LAUNCHDARKLY_ACCESS_TOKEN (a Reader role is enough); only `serve` needs none"
        yield judge("token", "is not set: LaunchDarkly was not asked", fix)
    elif facts.unasked:
        yield find_well("launchdarkly", f"not asked: {facts.unasked}")
    elif facts.silence:
        fix = "check ENRICHER_LAUNCHDARKLY_URL, the name server, and what filters outgoing traffic"
        yield find_wrong("launchdarkly", f"{facts.origin}: no answer ({facts.silence})", fix)
    else:
        yield from _judge_answer(facts)


def _judge_answer(facts: UpstreamFacts) -> Iterator[Finding]:
    status = facts.status
    known = {_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY}
    if status not in known or (status in {_OK, _NOT_FOUND} and not facts.is_json):
        fix = "is ENRICHER_LAUNCHDARKLY_URL right? else see https://status.launchdarkly.com"
        kind = "JSON" if facts.is_json else "no JSON"
        yield find_wrong("launchdarkly", f"{facts.origin} answers {status} with {kind}", fix)
        return
    yield find_well("launchdarkly", f"{facts.origin} answers {status}")
    if status == _TOO_MANY:
        yield find_odd("token", "cannot be told: the rate limit is reached", "try again later")
    else:
        yield from _judge_access(facts)
    yield judge_clock(
        "launchdarkly clock", facts.ahead_s, whose="LaunchDarkly's clock", blur_s=_BLUR_S
    )
    yield _judge_quota(facts.windows)


def _judge_access(facts: UpstreamFacts) -> Iterator[Finding]:
    if facts.status == _UNAUTHORIZED:
        fix = "make a new one with a Reader role, and set LAUNCHDARKLY_ACCESS_TOKEN"
        yield find_wrong("token", "is refused (401)", fix)
    elif facts.status == _FORBIDDEN and "beta" in facts.words.lower():
        fix = "does a proxy in between take the header LD-API-Version away?"
        yield find_wrong("beta header", f"does not arrive: {facts.words}", fix)
    elif facts.status == _FORBIDDEN:
        fix = "give its role access to Engineering Insights (Reader has it)"
        yield find_wrong("token", f"may not read deployments (403): {facts.words}", fix)
    else:
        yield find_well("token", "is accepted")
        yield find_well("beta header", "is accepted")
        if facts.project and facts.status == _NOT_FOUND:
            told = f"LaunchDarkly knows no project {facts.project!r}, or the token may not see it"
            yield find_odd("project", told, "mend `project` in the file of sources")


def _judge_quota(windows: Sequence[Window]) -> Finding:
    if not windows:
        return find_well("quota", "its headers say nothing: we feel our way")
    told = ", ".join(
        f"{each.family} {each.left}{f' of {each.limit}' if each.limit else ''}" for each in windows
    )
    if any(each.left == 0 for each in windows):
        return find_odd("quota", f"calls left: {told}", "others use it up: see ENRICHER_RATE_SHARE")
    return find_well("quota", f"calls left: {told}")
