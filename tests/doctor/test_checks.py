"""Tests of the doctor's checks and report: facts in, findings out."""

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from service.doctor.checks import (
    BacklogFacts,
    Finding,
    FlagEventFacts,
    ReceiverFacts,
    RedisFacts,
    ScopeFacts,
    SourceFacts,
    UpstreamFacts,
    check_body_limit,
    check_flag_events,
    check_receiver,
    check_redis,
    check_scopes,
    check_sources,
    check_upstream,
    check_work,
)
from service.doctor.report import format_findings, format_findings_json, has_no_error
from service.enrich.rate_limits import RateLimitWindow
from service.settings import Settings
from service.store.services import find_service

DRAGONFLY = find_service([], {"dragonfly_version": "1"})
REDIS = RedisFacts(
    location="redis:6379",
    is_embedded=False,
    guarantee="each write is on disk before it is answered",
    info={"redis_version": "7.2.4", "used_memory": "1048576", "maxmemory": "0", "aof_enabled": "1"},
    clock_ahead_s=0.2,
)
BACKLOG = BacklogFacts(limit=100, idle_workers=1, calls_available=4)
UPSTREAM = UpstreamFacts(origin="https://app.launchdarkly.com", status=404, clock_ahead_s=0.5)


def find_problems(findings: Iterable[Finding]) -> dict[str, str]:
    """Return what was found by each check that is not ok."""
    return {finding.check: finding.found for finding in findings if finding.status != "ok"}


def status_of(findings: Iterable[Finding], check: str) -> str:
    """Return the status of one check; a finding that is not ok must have a fix."""
    (finding,) = [candidate for candidate in findings if candidate.check == check]
    assert bool(finding.fix) is (finding.status != "ok")
    return finding.status


def test_checks_with_good_facts_are_ok_without_fixes() -> None:
    """Good facts about Redis, backlog and LaunchDarkly give only ok findings."""
    findings = [*check_redis(REDIS), *check_work(BACKLOG), *check_upstream(UPSTREAM)]
    assert find_problems(findings) == {}
    assert not [finding for finding in findings if finding.fix]
    assert has_no_error(findings)


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"connection_error": "refused"}, "redis", "error"),
        ({"connection_error": "WRONGPASS", "bad_password": True}, "redis", "error"),
        ({"connection_error": "no socket", "is_embedded": True}, "redis", "warning"),
        (
            {"connection_error": "no socket", "is_embedded": True, "can_start": False},
            "redis",
            "error",
        ),
        ({"startup_error": "It keeps nothing. Start it again."}, "redis durability", "error"),
        ({"durability": "memory"}, "redis durability", "warning"),
        ({"warnings": ("a replica follows: wait for it",)}, "redis configuration", "warning"),
        ({"service": DRAGONFLY}, "redis service", "warning"),
        ({"service": DRAGONFLY, "durability": "replica"}, "redis service", "ok"),
        ({"clock_ahead_s": 5.0}, "redis clock", "warning"),
        ({"clock_ahead_s": -61.0}, "redis clock", "error"),
        ({"info": {"rdb_last_bgsave_status": "err"}}, "redis disk", "error"),
        ({"info": {"used_memory": "85", "maxmemory": "100"}}, "redis memory", "warning"),
        ({"info": {"used_memory": "96", "maxmemory": "100"}}, "redis memory", "error"),
        ({"info": {}}, "redis memory", "warning"),
    ],
)
def test_check_redis_with_a_problem_reports_it(
    changes: dict[str, Any], check: str, status: str
) -> None:
    """Redis is away, unsafe, full, or its clock differs."""
    assert status_of(check_redis(replace(REDIS, **changes)), check) == status


def test_check_redis_of_a_managed_service_says_nothing_of_its_disk() -> None:
    """INFO does not know the transaction log of the service; its errors still count."""
    facts = replace(REDIS, service=DRAGONFLY)
    assert "redis disk" not in {finding.check for finding in check_redis(facts)}
    broken = replace(facts, info={"aof_last_write_status": "err"})
    assert status_of(check_redis(broken), "redis disk") == "error"


def test_check_redis_when_away_gives_one_finding() -> None:
    """The other checks would only fail for the same cause."""
    assert len([*check_redis(replace(REDIS, connection_error="refused"))]) == 1


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"waiting": 80}, "backlog", "warning"),
        ({"waiting": 100}, "backlog", "error"),
        ({"due": 1, "overdue_s": 60.0, "idle_workers": 0}, "workers", "error"),
        ({"due": 1, "overdue_s": 60.0, "idle_workers": None}, "workers", "error"),
        ({"due": 1, "overdue_s": 60.0, "idle_workers": 0, "closed_s": 9.0}, "workers", "warning"),
        ({"due": 1, "overdue_s": 60.0, "idle_workers": 0, "leased": 1}, "workers", "ok"),
        ({"waiting": 2, "stalled_s": 60.0, "idle_workers": None}, "workers", "error"),
        ({"idle_workers": 0}, "workers", "warning"),
        ({"idle_workers": None}, "workers", "ok"),
        ({"closed_reason": "token refused"}, "budget", "error"),
        ({"closed_reason": "rate limited", "closed_s": 3.0}, "budget", "warning"),
        ({"closed_reason": "upstream failing", "closed_s": 3.0}, "budget", "warning"),
        (
            {"closed_reason": "rate limited", "calls_available": 0, "opens_in_s": 3.0},
            "budget",
            "ok",
        ),
        ({"forbidden": "locked/production"}, "projects", "warning"),
        ({}, "projects", "ok"),
        ({"failed_total": 2, "failed": {"not_found": 2}}, "failed", "warning"),
        ({"scope_age_s": {"default/production": 700.0}}, "reconcile", "ok"),
        ({"scope_age_s": {"default/production": 1900.0}}, "reconcile", "warning"),
        ({"scope_age_s": {"a/b": 1.0, "default/production": None}}, "reconcile", "warning"),
    ],
)
def test_check_work_with_a_problem_reports_it(
    changes: dict[str, Any], check: str, status: str
) -> None:
    """The backlog is full, has no workers, or its budget is closed; or tickets failed."""
    assert status_of(check_work(replace(BACKLOG, **changes)), check) == status


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"has_token": False}, "token", "error"),
        ({"has_token": False, "needs_token": False}, "token", "warning"),
        ({"no_response_reason": "timed out"}, "launchdarkly", "error"),
        ({"status": 404, "is_json": False}, "launchdarkly", "error"),
        ({"status": 301}, "launchdarkly", "error"),
        ({"status": 503}, "launchdarkly", "error"),
        ({"skipped_reason": "the quota is met"}, "launchdarkly", "ok"),
        ({"status": 401}, "token", "error"),
        ({"status": 403}, "token", "error"),
        ({"status": 403, "project": "locked"}, "token", "error"),
        ({"status": 403, "message": "This API is in beta."}, "beta header", "error"),
        ({"status": 429}, "token", "warning"),
        ({"project": "defautl"}, "project", "warning"),
        ({"clock_ahead_s": 30.0}, "launchdarkly clock", "warning"),
        ({"windows": (RateLimitWindow("global", 10, 0, 1),)}, "quota", "warning"),
        ({"windows": (RateLimitWindow("global", 10, 9, 1),)}, "quota", "ok"),
    ],
)
def test_check_upstream_with_a_problem_reports_it(
    changes: dict[str, Any], check: str, status: str
) -> None:
    """LaunchDarkly is silent, another server answers, or it refuses the token."""
    assert status_of(check_upstream(replace(UPSTREAM, **changes)), check) == status


def test_check_upstream_over_http_warns_about_the_token() -> None:
    """On a loopback address, where the token stays on this machine, it does not warn."""
    remote, local = (
        find_problems(check_upstream(replace(UPSTREAM, origin=origin)))
        for origin in ("http://ld.example", "http://127.0.0.1:9090")
    )
    assert remote == {"launchdarkly": "the token is sent unencrypted"}
    assert local == {}


def test_can_call_while_rate_limited_or_used_up_is_false() -> None:
    """The doctor obeys the rate limit; a refused token may be tried again."""
    limited = replace(BACKLOG, closed_s=3.0, closed_reason="rate limited")
    refused = replace(BACKLOG, closed_s=3.0, closed_reason="token refused", calls_available=0)
    used_up = replace(BACKLOG, calls_available=0)
    assert [facts.can_call for facts in (BACKLOG, limited, refused, used_up)] == [
        True,
        False,
        True,
        False,
    ]


def test_check_sources_names_the_location_of_a_missing_secret() -> None:
    """A missing secret is an error, a source without verification a warning."""
    sources = [
        SourceFacts("web", {"env:X": "is not set"}, is_verified=True),
        SourceFacts("open", {}, is_verified=False),
        SourceFacts("ci", {}, is_verified=True),
    ]
    findings = [*check_sources(sources, error="", is_needed=True)]
    assert [finding.status for finding in findings] == ["error", "warning", "ok"]
    assert findings[0].found == "env:X is not set"
    for is_needed, status in ((True, "error"), (False, "warning")):
        (finding,) = check_sources([], error="line 3", is_needed=is_needed)
        assert (finding.found, finding.status) == ("line 3", status)


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        (ReceiverFacts("http://x", "ours"), "ok"),
        (ReceiverFacts("http://x", "free"), "ok"),
        (ReceiverFacts("http://x", "any"), "ok"),
        (ReceiverFacts("http://x", "stranger"), "error"),
        (ReceiverFacts("http://x", "unusable", "Permission denied"), "error"),
    ],
)
def test_check_receiver_accepts_our_own_or_a_free_address(
    facts: ReceiverFacts, status: str
) -> None:
    """Any other state of the address is an error."""
    assert status_of([check_receiver(facts)], "receiver") == status


def test_format_findings_wraps_lines_and_escapes_control_characters() -> None:
    """The fix is below what was found, and the last line has the counts."""
    findings = [
        Finding(check="a", status="ok", found="\x1b[2J"),
        Finding(check="longer", status="error", found="word " * 12, fix="fix it"),
    ]
    assert format_findings(findings, terminal_width=50).splitlines() == [
        "ok    a       \\x1b[2J",
        "ERROR longer  word word word word word word word",
        "              word word word word word",
        "              -> fix it",
        "",
        "1 error, 0 warnings, 1 ok",
    ]
    assert not has_no_error(findings)


def test_check_work_with_an_idle_reader_group_warns() -> None:
    """The finding names the group and for how long it has not read."""
    facts = replace(BACKLOG, group_idle_s={"notes": 3.0, "old": 900_000.0})
    assert find_problems(check_work(facts)) == {"readers": "old has not read for 10.4 d"}
    assert status_of(check_work(replace(facts, group_idle_s={"notes": 3.0})), "readers") == "ok"


def test_format_findings_json_says_whether_there_is_an_error() -> None:
    """Programs read ``ok`` instead of the exit code."""
    findings = [Finding(check="a", status="warning", found="x", fix="y")]
    assert format_findings_json(findings).startswith('{"ok":true,"findings":[{"check":"a"')
    assert format_findings_json([Finding(check="a", status="error", found="x")]).startswith(
        '{"ok":false'
    )


def test_check_scopes_reports_misspelt_scopes() -> None:
    """LaunchDarkly refuses one, or answers with an empty list as for an unused one."""
    scopes = [
        ScopeFacts("default/production", 200, is_empty=False),
        ScopeFacts("defualt/production", 200, is_empty=True),
        ScopeFacts("default/prodution", 404, is_empty=False),
        ScopeFacts("locked/production", 403, is_empty=False),
    ]
    findings = [*check_scopes(scopes)]
    assert [(finding.check, finding.status) for finding in findings] == [
        ("scope defualt/production", "warning"),
        ("scope default/prodution", "warning"),
    ]
    assert all("spelling" in finding.fix for finding in findings)


def test_check_body_limit_names_the_limits() -> None:
    """A proxy in front with a lower limit would refuse what the receiver accepts."""
    settings = Settings()
    finding = check_body_limit(settings.max_body_bytes, settings.max_buffered_bytes)
    assert finding.status == "ok"
    assert finding.found.startswith("up to 25.0 MiB each, 128.0 MiB at a time; a proxy in front")


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        (FlagEventFacts(""), "ok"),
        (FlagEventFacts("default/production", 200), "ok"),
        (FlagEventFacts("default/production", 429), "ok"),
        (FlagEventFacts("default/production", 403, "Forbidden."), "warning"),
        (FlagEventFacts("default/production", 401), "warning"),
        (FlagEventFacts("default/production", 404), "warning"),
        (FlagEventFacts("default/production"), "warning"),
    ],
)
def test_flag_events_that_cannot_be_read_are_a_warning(facts: FlagEventFacts, status: str) -> None:
    """Records are published without them, so it is no error."""
    assert status_of([check_flag_events(facts)], "flag events") == status
