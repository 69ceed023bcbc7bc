"""Records of a small history for tests of the page: released, failed, repaired, rolled back."""

import time
from typing import Any

import msgspec

from tests.publish.sample_records import entry_fields

MINUTE_MS = 60_000
SCRIPT = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
LONG_TEXT = "an-unusually-long-value-" * 9
FLAG_URL = "https://app.launchdarkly.com/default/production/features/dark-mode"
PULL_URL = "https://github.com/example/shop/pull/7"
LINKS = {
    "pullRequests": [{"number": "7", "url": PULL_URL}],
    "flags": [{"key": "dark-mode", "url": FLAG_URL}],
}
CONTENTS = {
    "pullRequests": {
        "totalCount": 1,
        "items": [{"externalId": "7", "title": "Pay by card", "author": "jo", "url": PULL_URL}],
    },
    "flagReferences": {
        "totalCount": 1,
        "items": [{"projectKey": "default", "flagKey": "dark-mode"}],
    },
}


def deployment_id(number: int) -> str:
    """Return the id of a deployment, as in the records of these tests."""
    return f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}"


def make_change(previous: int | None, **fields: Any) -> dict[str, Any]:
    """Return a change; ``fields`` replaces fields of it and of the previous deployment."""
    known = {"version": "1.0.0", "endedAt": 0, "outcome": "succeeded"}
    known |= {name: fields.pop(name) for name in tuple(known) if name in fields}
    return {
        "previous": None if previous is None else {"deploymentId": deployment_id(previous)} | known,
        "sincePreviousMs": None if previous is None else 5 * MINUTE_MS,
        "redeployment": False,
        "rollback": False,
        "recovery": None,
    } | fields


def make_recovery(number: int, *, after_ms: int) -> dict[str, Any]:
    """Return the recovery from a failed deployment."""
    return {"failedDeploymentId": deployment_id(number), "failedAt": 0, "afterMs": after_ms}


def make_fields(
    number: int,
    *,
    revision: int = 1,
    version: str = "1.0.0",
    ended_at: int,
    outcome: str = "succeeded",
    data: dict[str, Any] | None = None,
    **deployment: Any,
) -> dict[Any, Any]:
    """Return the fields of one entry; ``data`` adds fields to the record, None removes one."""
    sent = {"applicationVersion": version, "environmentKey": "production", "endedAt": ended_at}
    fields = entry_fields(number, revision=revision, **(sent | deployment))
    record = msgspec.json.decode(fields["data"])
    record["event"]["outcome"] = outcome
    record |= data or {}
    present = {name: value for name, value in record.items() if value is not None}
    return {**fields, "data": msgspec.json.encode(present)}


def make_history() -> list[dict[Any, Any]]:
    """Return the entries of an application whose measures are known.

    Of six deployments of the last 15 minutes five succeeded. One failed and one was rolled back.
    The newest but one has a flag event. The oldest record lacks what older records lack.
    """
    now_ms = int(time.time() * 1000)
    recoveries = make_recovery(2, after_ms=240_000), make_recovery(4, after_ms=120_000)
    changes = {
        2: make_change(1),
        3: make_change(2, outcome="failed", redeployment=True, recovery=recoveries[0]),
        4: make_change(3),
        5: make_change(4, version="3.0.0", rollback=True, recovery=recoveries[1]),
        6: make_change(5),
    }
    data: dict[int, dict[str, Any]] = {
        number: {"change": change} for number, change in changes.items()
    }
    data[1] = {"change": None, "flagEvents": None, "links": None, "refreshes": None}
    late = make_flag_event(now_ms - 2 * MINUTE_MS)  # after the next deployment
    data[4] |= {"flagEvents": [late]}
    data[5] |= {"flagEvents": [late], "links": LINKS}
    versions = {1: "1.0.0", 2: "2.0.0", 3: "2.0.0", 4: "3.0.0", 5: "2.0.0", 6: "4.0.0"}
    contents: dict[int, dict[str, Any]] = {
        1: {"leadTime": 3_600_000},
        3: {"leadTime": 7_200_000},
        4: CONTENTS,
        5: CONTENTS | {"leadTime": 10_800_000},
    }
    return [
        make_fields(
            number,
            version=versions[number],
            ended_at=now_ms - minutes * MINUTE_MS,
            outcome="failed" if number == 2 else "succeeded",
            data=data[number],
            **contents.get(number, {}),
        )
        for number, minutes in ((1, 12), (2, 10), (3, 6), (4, 5), (5, 3), (6, 1))
    ]


def make_flag_event(at_ms: int) -> dict[str, Any]:
    """Return a flag that a member turned on at a time."""
    return {
        "flagKey": "dark-mode",
        "eventType": "enabled_targeting",
        "eventTime": at_ms,
        "description": "Turned on targeting",
        "impact": {"size": "medium", "percentage": 42, "reason": "evaluations"},
        "auditLogEntryId": "a1",
        "memberEmail": "ada@example.com",
    }


def make_hostile_fields() -> dict[Any, Any]:
    """Return an entry whose texts are markup, a hostile URL, and very long."""
    now = int(time.time() * 1000)
    pull_requests = {
        "totalCount": 2,
        "items": [
            {"externalId": SCRIPT, "title": SCRIPT, "author": SCRIPT, "url": "javascript:alert(3)"},
            {"externalId": "8", "title": LONG_TEXT, "author": LONG_TEXT, "url": PULL_URL},
        ],
    }
    flags = {"totalCount": 1, "items": [{"projectKey": "default", "flagKey": SCRIPT}]}
    texts = dict.fromkeys(("flagKey", "eventType", "description", "memberEmail"), SCRIPT)
    event = make_flag_event(now) | texts | {"impact": {"reason": "waiting"}}
    links = {
        "pullRequests": [{"number": "7", "url": "javascript:alert(4)"}],
        "flags": [{"key": SCRIPT, "url": "javascript:alert(5)"}],
    }
    change = make_change(98, version=SCRIPT)
    return make_fields(
        99,
        version=LONG_TEXT,
        ended_at=now,
        pullRequests=pull_requests,
        flagReferences=flags,
        data={"flagEvents": [event], "links": links, "change": change},
    )
