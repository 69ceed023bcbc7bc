"""Are findings right? Tables: facts in, what is wrong and the fix out."""

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from service.enrich.ratelimit import Window
from service.operate.doctor.entrance import DoorFacts, SourceFacts, judge_door, judge_sources
from service.operate.doctor.finding import Finding
from service.operate.doctor.report import is_well, write_findings
from service.operate.doctor.store import StoreFacts, judge_store
from service.operate.doctor.upstream import UpstreamFacts, judge_upstream
from service.operate.doctor.waiting import WaitingFacts, judge_waiting

STORE = StoreFacts(
    place="redis:6379",
    own=False,
    promise="each write is on disk before it is answered",
    info={"redis_version": "7.2.4", "used_memory": "1048576", "maxmemory": "0", "aof_enabled": "1"},
    ahead_s=0.2,
)
WAITING = WaitingFacts(limit=100, listening=1, room=4)
UPSTREAM = UpstreamFacts(origin="https://app.launchdarkly.com", status=404, ahead_s=0.5)


def outline(findings: Iterable[Finding]) -> dict[str, str]:
    """Give what is not well: check and found."""
    return {each.check: each.found for each in findings if each.status != "ok"}


def status_of(findings: Iterable[Finding], check: str) -> str:
    """Give how one check went; what is not well has a fix."""
    (one,) = [each for each in findings if each.check == check]
    assert bool(one.fix) is (one.status != "ok")
    return one.status


def test_what_is_well_is_told_without_a_fix() -> None:
    """Nothing to mend anywhere."""
    findings = [*judge_store(STORE), *judge_waiting(WAITING), *judge_upstream(UPSTREAM)]
    assert outline(findings) == {}
    assert not [each for each in findings if each.fix]
    assert is_well(findings)


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"trouble": "refused"}, "redis", "failure"),
        ({"trouble": "WRONGPASS", "bad_password": True}, "redis", "failure"),
        ({"trouble": "no socket", "own": True}, "redis", "warning"),
        ({"trouble": "no socket", "own": True, "startable": False}, "redis", "failure"),
        ({"refusal": "It keeps nothing. Start it anew."}, "redis durability", "failure"),
        ({"durability": "memory"}, "redis durability", "warning"),
        ({"warnings": ("a replica follows: wait for it",)}, "redis fitness", "warning"),
        ({"ahead_s": 5.0}, "redis clock", "warning"),
        ({"ahead_s": -61.0}, "redis clock", "failure"),
        ({"info": {"rdb_last_bgsave_status": "err"}}, "redis disk", "failure"),
        ({"info": {"used_memory": "85", "maxmemory": "100"}}, "redis memory", "warning"),
        ({"info": {"used_memory": "96", "maxmemory": "100"}}, "redis memory", "failure"),
        ({"info": {}}, "redis memory", "warning"),
    ],
)
def test_a_store_that_is_ill_is_told(changes: dict[str, Any], check: str, status: str) -> None:
    """Away, unsafe, full, or of another time."""
    assert status_of(judge_store(replace(STORE, **changes)), check) == status


def test_of_a_store_that_is_away_nothing_else_is_said() -> None:
    """One finding, and not ten that follow from it."""
    assert len([*judge_store(replace(STORE, trouble="refused"))]) == 1


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"waiting": 80}, "backlog", "warning"),
        ({"waiting": 100}, "backlog", "failure"),
        ({"due": 1, "overdue_s": 60.0, "listening": 0}, "workers", "failure"),
        ({"due": 1, "overdue_s": 60.0, "listening": None}, "workers", "failure"),
        ({"due": 1, "overdue_s": 60.0, "listening": 0, "closed_s": 9.0}, "workers", "warning"),
        ({"due": 1, "overdue_s": 60.0, "listening": 0, "leased": 1}, "workers", "ok"),
        ({"listening": 0}, "workers", "warning"),
        ({"listening": None}, "workers", "ok"),
        ({"why": "token refused"}, "budget", "failure"),
        ({"why": "rate limited", "closed_s": 3.0}, "budget", "warning"),
        ({"why": "upstream failing", "closed_s": 3.0}, "budget", "warning"),
        ({"why": "rate limited", "room": 0, "opens_s": 3.0}, "budget", "ok"),
        ({"failed_total": 2, "failed": {"not_found": 2}}, "failed", "warning"),
        ({"listed_s": {"default/production": 700.0}}, "reconcile", "ok"),
        ({"listed_s": {"default/production": 1900.0}}, "reconcile", "warning"),
        ({"listed_s": {"a/b": 1.0, "default/production": None}}, "reconcile", "warning"),
    ],
)
def test_work_that_does_not_go_on_is_told(changes: dict[str, Any], check: str, status: str) -> None:
    """Full, without workers, closed, or failed."""
    assert status_of(judge_waiting(replace(WAITING, **changes)), check) == status


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"has_token": False}, "token", "failure"),
        ({"has_token": False, "needs_token": False}, "token", "warning"),
        ({"silence": "timed out"}, "launchdarkly", "failure"),
        ({"status": 404, "is_json": False}, "launchdarkly", "failure"),
        ({"status": 301}, "launchdarkly", "failure"),
        ({"status": 503}, "launchdarkly", "failure"),
        ({"unasked": "the quota is met"}, "launchdarkly", "ok"),
        ({"status": 401}, "token", "failure"),
        ({"status": 403}, "token", "failure"),
        ({"status": 403, "words": "This API is in beta."}, "beta header", "failure"),
        ({"status": 429}, "token", "warning"),
        ({"project": "defautl"}, "project", "warning"),
        ({"ahead_s": 30.0}, "launchdarkly clock", "warning"),
        ({"windows": (Window("global", 10, 0, 1),)}, "quota", "warning"),
        ({"windows": (Window("global", 10, 9, 1),)}, "quota", "ok"),
    ],
)
def test_an_upstream_that_does_not_serve_us_is_told(
    changes: dict[str, Any], check: str, status: str
) -> None:
    """Silent, somebody else, or it wants another token."""
    assert status_of(judge_upstream(replace(UPSTREAM, **changes)), check) == status


def test_a_token_sent_in_clear_is_told() -> None:
    """But not where it stays on this machine."""
    far, near = (
        outline(judge_upstream(replace(UPSTREAM, origin=origin)))
        for origin in ("http://ld.example", "http://127.0.0.1:9090")
    )
    assert far == {"launchdarkly": "the token travels unencrypted"}
    assert near == {}


def test_a_call_is_made_only_where_nobody_waits_for_it() -> None:
    """A rate limit is kept by the doctor too; a refused token may be tried."""
    limited = replace(WAITING, closed_s=3.0, why="rate limited")
    refused = replace(WAITING, closed_s=3.0, why="token refused", room=0)
    met = replace(WAITING, room=0)
    assert [each.may_call for each in (WAITING, limited, refused, met)] == [
        True,
        False,
        True,
        False,
    ]


def test_sources_are_told_with_the_place_of_their_secrets() -> None:
    """Missing secrets are failures, no verification is a warning."""
    sources = [
        SourceFacts("web", {"env:X": "is not set"}, verified=True),
        SourceFacts("open", {}, verified=False),
        SourceFacts("ci", {}, verified=True),
    ]
    findings = [*judge_sources(sources, error="", is_needed=True)]
    assert [each.status for each in findings] == ["failure", "warning", "ok"]
    assert findings[0].found == "env:X is not set"
    for is_needed, status in ((True, "failure"), (False, "warning")):
        (one,) = judge_sources([], error="line 3", is_needed=is_needed)
        assert (one.found, one.status) == ("line 3", status)


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        (DoorFacts("http://x", "ours"), "ok"),
        (DoorFacts("http://x", "free"), "ok"),
        (DoorFacts("http://x", "any"), "ok"),
        (DoorFacts("http://x", "stranger"), "failure"),
        (DoorFacts("http://x", "unusable", "Permission denied"), "failure"),
    ],
)
def test_the_door_is_ours_or_free(facts: DoorFacts, status: str) -> None:
    """Anything else must be mended."""
    assert status_of([judge_door(facts)], "door") == status


def test_findings_are_wrapped_and_printable() -> None:
    """The fix stands below what was found; what comes from outside moves no cursor."""
    findings = [
        Finding(check="a", status="ok", found="\x1b[2J"),
        Finding(check="longer", status="failure", found="word " * 12, fix="mend it"),
    ]
    assert write_findings(findings, columns=50).splitlines() == [
        "ok    a       \\x1b[2J",
        "FAIL  longer  word word word word word word word",
        "              word word word word word",
        "              -> mend it",
        "",
        "1 to mend, 0 to look at, 1 well",
    ]
    assert not is_well(findings)


def test_a_dead_group_of_readers_should_be_looked_at() -> None:
    """It is named, with how long it was not seen; one that reads is well."""
    facts = replace(WAITING, unseen_s={"notes": 3.0, "old": 900_000.0})
    assert outline(judge_waiting(facts)) == {"readers": "old was not seen for 10.4 d"}
    assert status_of(judge_waiting(replace(facts, unseen_s={"notes": 3.0})), "readers") == "ok"
