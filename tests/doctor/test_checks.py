"""Are findings right? Tables: facts in, what is wrong and the fix out."""

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from service.doctor.checks import (
    BacklogFacts,
    ReceiverFacts,
    RedisFacts,
    SourceFacts,
    UpstreamFacts,
    check_receiver,
    check_redis,
    check_sources,
    check_upstream,
    check_work,
)
from service.doctor.report import Finding, format_findings, has_no_failure
from service.enrich.rate_limits import RateLimitWindow

STORE = RedisFacts(
    location="redis:6379",
    is_embedded=False,
    guarantee="each write is on disk before it is answered",
    info={"redis_version": "7.2.4", "used_memory": "1048576", "maxmemory": "0", "aof_enabled": "1"},
    clock_ahead_s=0.2,
)
WAITING = BacklogFacts(limit=100, idle_workers=1, calls_available=4)
UPSTREAM = UpstreamFacts(origin="https://app.launchdarkly.com", status=404, clock_ahead_s=0.5)


def problems(findings: Iterable[Finding]) -> dict[str, str]:
    """Give what is not well: check and found."""
    return {finding.check: finding.found for finding in findings if finding.status != "ok"}


def status_of(findings: Iterable[Finding], check: str) -> str:
    """Give how one check went; what is not well has a fix."""
    (finding,) = [candidate for candidate in findings if candidate.check == check]
    assert bool(finding.fix) is (finding.status != "ok")
    return finding.status


def test_what_is_well_is_told_without_a_fix() -> None:
    """Nothing to mend anywhere."""
    findings = [*check_redis(STORE), *check_work(WAITING), *check_upstream(UPSTREAM)]
    assert problems(findings) == {}
    assert not [each for each in findings if each.fix]
    assert has_no_failure(findings)


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"connection_error": "refused"}, "redis", "failure"),
        ({"connection_error": "WRONGPASS", "bad_password": True}, "redis", "failure"),
        ({"connection_error": "no socket", "is_embedded": True}, "redis", "warning"),
        (
            {"connection_error": "no socket", "is_embedded": True, "can_start": False},
            "redis",
            "failure",
        ),
        ({"startup_error": "It keeps nothing. Start it anew."}, "redis durability", "failure"),
        ({"durability": "memory"}, "redis durability", "warning"),
        ({"warnings": ("a replica follows: wait for it",)}, "redis fitness", "warning"),
        ({"clock_ahead_s": 5.0}, "redis clock", "warning"),
        ({"clock_ahead_s": -61.0}, "redis clock", "failure"),
        ({"info": {"rdb_last_bgsave_status": "err"}}, "redis disk", "failure"),
        ({"info": {"used_memory": "85", "maxmemory": "100"}}, "redis memory", "warning"),
        ({"info": {"used_memory": "96", "maxmemory": "100"}}, "redis memory", "failure"),
        ({"info": {}}, "redis memory", "warning"),
    ],
)
def test_a_store_that_is_ill_is_told(changes: dict[str, Any], check: str, status: str) -> None:
    """Away, unsafe, full, or of another time."""
    assert status_of(check_redis(replace(STORE, **changes)), check) == status


def test_of_a_store_that_is_away_nothing_else_is_said() -> None:
    """One finding, and not ten that follow from it."""
    assert len([*check_redis(replace(STORE, connection_error="refused"))]) == 1


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"waiting": 80}, "backlog", "warning"),
        ({"waiting": 100}, "backlog", "failure"),
        ({"due": 1, "overdue_s": 60.0, "idle_workers": 0}, "workers", "failure"),
        ({"due": 1, "overdue_s": 60.0, "idle_workers": None}, "workers", "failure"),
        ({"due": 1, "overdue_s": 60.0, "idle_workers": 0, "closed_s": 9.0}, "workers", "warning"),
        ({"due": 1, "overdue_s": 60.0, "idle_workers": 0, "leased": 1}, "workers", "ok"),
        ({"idle_workers": 0}, "workers", "warning"),
        ({"idle_workers": None}, "workers", "ok"),
        ({"closed_reason": "token refused"}, "budget", "failure"),
        ({"closed_reason": "rate limited", "closed_s": 3.0}, "budget", "warning"),
        ({"closed_reason": "upstream failing", "closed_s": 3.0}, "budget", "warning"),
        (
            {"closed_reason": "rate limited", "calls_available": 0, "opens_in_s": 3.0},
            "budget",
            "ok",
        ),
        ({"failed_total": 2, "failed": {"not_found": 2}}, "failed", "warning"),
        ({"scope_age_s": {"default/production": 700.0}}, "reconcile", "ok"),
        ({"scope_age_s": {"default/production": 1900.0}}, "reconcile", "warning"),
        ({"scope_age_s": {"a/b": 1.0, "default/production": None}}, "reconcile", "warning"),
    ],
)
def test_work_that_does_not_go_on_is_told(changes: dict[str, Any], check: str, status: str) -> None:
    """Full, without workers, closed, or failed."""
    assert status_of(check_work(replace(WAITING, **changes)), check) == status


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"has_token": False}, "token", "failure"),
        ({"has_token": False, "needs_token": False}, "token", "warning"),
        ({"no_response_reason": "timed out"}, "launchdarkly", "failure"),
        ({"status": 404, "is_json": False}, "launchdarkly", "failure"),
        ({"status": 301}, "launchdarkly", "failure"),
        ({"status": 503}, "launchdarkly", "failure"),
        ({"skipped_reason": "the quota is met"}, "launchdarkly", "ok"),
        ({"status": 401}, "token", "failure"),
        ({"status": 403}, "token", "failure"),
        ({"status": 403, "message": "This API is in beta."}, "beta header", "failure"),
        ({"status": 429}, "token", "warning"),
        ({"project": "defautl"}, "project", "warning"),
        ({"clock_ahead_s": 30.0}, "launchdarkly clock", "warning"),
        ({"windows": (RateLimitWindow("global", 10, 0, 1),)}, "quota", "warning"),
        ({"windows": (RateLimitWindow("global", 10, 9, 1),)}, "quota", "ok"),
    ],
)
def test_an_upstream_that_does_not_serve_us_is_told(
    changes: dict[str, Any], check: str, status: str
) -> None:
    """Silent, somebody else, or it wants another token."""
    assert status_of(check_upstream(replace(UPSTREAM, **changes)), check) == status


def test_a_token_sent_in_clear_is_told() -> None:
    """But not where it stays on this machine."""
    far, near = (
        problems(check_upstream(replace(UPSTREAM, origin=origin)))
        for origin in ("http://ld.example", "http://127.0.0.1:9090")
    )
    assert far == {"launchdarkly": "the token travels unencrypted"}
    assert near == {}


def test_a_call_is_made_only_where_nobody_waits_for_it() -> None:
    """A rate limit is kept by the doctor too; a refused token may be tried."""
    limited = replace(WAITING, closed_s=3.0, closed_reason="rate limited")
    refused = replace(WAITING, closed_s=3.0, closed_reason="token refused", calls_available=0)
    met = replace(WAITING, calls_available=0)
    assert [each.can_call for each in (WAITING, limited, refused, met)] == [
        True,
        False,
        True,
        False,
    ]


def test_sources_are_told_with_the_place_of_their_secrets() -> None:
    """Missing secrets are failures, no verification is a warning."""
    sources = [
        SourceFacts("web", {"env:X": "is not set"}, is_verified=True),
        SourceFacts("open", {}, is_verified=False),
        SourceFacts("ci", {}, is_verified=True),
    ]
    findings = [*check_sources(sources, error="", is_needed=True)]
    assert [each.status for each in findings] == ["failure", "warning", "ok"]
    assert findings[0].found == "env:X is not set"
    for is_needed, status in ((True, "failure"), (False, "warning")):
        (one,) = check_sources([], error="line 3", is_needed=is_needed)
        assert (one.found, one.status) == ("line 3", status)


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        (ReceiverFacts("http://x", "ours"), "ok"),
        (ReceiverFacts("http://x", "free"), "ok"),
        (ReceiverFacts("http://x", "any"), "ok"),
        (ReceiverFacts("http://x", "stranger"), "failure"),
        (ReceiverFacts("http://x", "unusable", "Permission denied"), "failure"),
    ],
)
def test_the_receiver_is_ours_or_free(facts: ReceiverFacts, status: str) -> None:
    """Anything else must be mended."""
    assert status_of([check_receiver(facts)], "receiver") == status


def test_findings_are_wrapped_and_printable() -> None:
    """The fix stands below what was found; what comes from outside moves no cursor."""
    findings = [
        Finding(check="a", status="ok", found="\x1b[2J"),
        Finding(check="longer", status="failure", found="word " * 12, fix="mend it"),
    ]
    assert format_findings(findings, terminal_width=50).splitlines() == [
        "ok    a       \\x1b[2J",
        "FAIL  longer  word word word word word word word",
        "              word word word word word",
        "              -> mend it",
        "",
        "1 to mend, 0 to look at, 1 well",
    ]
    assert not has_no_failure(findings)


def test_a_dead_group_of_readers_should_be_looked_at() -> None:
    """It is named, with how long it was not seen; one that reads is well."""
    facts = replace(WAITING, group_idle_s={"notes": 3.0, "old": 900_000.0})
    assert problems(check_work(facts)) == {"readers": "old was not seen for 10.4 d"}
    assert status_of(check_work(replace(facts, group_idle_s={"notes": 3.0})), "readers") == "ok"
