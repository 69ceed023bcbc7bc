"""Hypothesis strategies for nearly valid input from outside."""

import json
import struct
from typing import Any

import msgspec
from hypothesis import strategies as st

from service.simulate.responses import Canned

ID_PLACEHOLDER = "@ID@"
VERSION_PLACEHOLDER = "@VERSION@"
"""Both placeholders stand for the id of the requested deployment."""

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def mostly(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return mostly valid values, and sometimes any JSON."""
    return st.integers(0, 9).flatmap(lambda roll: _JSON if roll == 0 else valid)


def _optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: mostly(kind) for name, kind in fields.items()})


_NUMBER = st.integers(-(2**65), 2**65) | st.integers(0, 2**41) | st.integers(0, 9).map(str)
_COUNT = st.integers(-1, 9) | _NUMBER
_TEXT = st.text(max_size=20)
_HREF = _TEXT | st.sampled_from(
    [
        "/api/v2/engineering-insights/pull-requests?after=x",
        "/api/v2/engineering-insights/deployments?after=x",
        "//elsewhere.invalid/x",
        "http://[",
        "file:///etc/passwd",
        "?after=\u0000",
    ]
)


def _collection(item: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    next_link = _optional(href=_HREF)
    return _optional(
        totalCount=_COUNT,
        items=st.lists(mostly(item), max_size=3),
        _links=_optional(next=next_link),
    )


_FLAG = _optional(
    projectKey=_TEXT, flagKey=_TEXT, referencesAdded=_NUMBER, referencesRemoved=_NUMBER
)
_STAGES = _optional(codingDurationMs=_NUMBER, reviewDurationMs=_NUMBER, waitDurationMs=_NUMBER)
_PULL_REQUEST = _optional(
    id=_TEXT,
    externalId=_TEXT,
    title=_TEXT,
    author=_TEXT,
    url=_TEXT,
    createTime=_NUMBER,
    mergeTime=_NUMBER,
    linesAdded=_NUMBER,
    deployments=_collection(_JSON),
    flagReferences=_collection(_FLAG),
)
_DEPLOYMENT_FIELDS = _optional(
    applicationKey=st.just("web") | _TEXT,
    applicationVersion=st.just(VERSION_PLACEHOLDER) | _TEXT,
    environmentKey=st.just("production") | _TEXT,
    status=st.sampled_from(["finished", "started", "failed"]) | _TEXT,
    startedAt=_NUMBER,
    endedAt=_NUMBER,
    durationMs=_NUMBER,
    active=st.booleans(),
    leadTime=_NUMBER,
    leadTimeStages=_STAGES,
    metadata=_JSON,
    pullRequests=_collection(_PULL_REQUEST),
    flagReferences=_collection(_FLAG),
)
_DEPLOYMENT = st.builds(
    lambda fields, name: {**fields, "id": name}, _DEPLOYMENT_FIELDS, mostly(st.just(ID_PLACEHOLDER))
)
_DEPLOYMENT_AND_LIST = st.builds(
    lambda page, deployment: {**page, **deployment}, _collection(_DEPLOYMENT), _DEPLOYMENT
)
_JSON_BODY = (_DEPLOYMENT | _DEPLOYMENT_AND_LIST | _JSON).map(
    lambda value: json.dumps(value).encode()
)
RESPONSE_BODIES = st.one_of(
    *(_JSON_BODY,) * 6,
    st.binary(max_size=60),
    st.builds(lambda b, n: b[:n], _JSON_BODY, st.integers(0, 200)),
)

_HEADER_VALUES = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
    st.integers(-1, 20).map(str),
    st.integers(0, 2**45).map(str),
    st.sampled_from(["Thu, 25 Nov 2027 00:00:00 GMT", "Thu, 32 Nov 0000 00:00:00", "1e3", "nan"]),
)
_HEADER_NAMES = st.sampled_from(
    [
        *(f"X-Ratelimit-{name}" for name in ("Global-Remaining", "Global-Limit", "Reset")),
        *(f"X-Ratelimit-Route-{name}" for name in ("Remaining", "Limit")),
        *(f"X-Ratelimit-Auth-Token-{name}" for name in ("Remaining", "Limit", "Reset")),
        *("Retry-After", "Date", "Location", "Content-Type", "Content-Encoding", "X-Other"),
    ]
)
_STATUSES = st.sampled_from(
    [*[200] * 6, 201, 204, 301, 304, 400, 401, 404, 409, 429, 429, 500, 503]
)
_ENCODING_HEADERS = st.sampled_from(["gzip", "deflate"]).map(
    lambda name: {"Content-Encoding": name}
)
RESPONSES = st.builds(
    lambda status, headers, body: Canned(status=status, headers=headers, body=body),
    _STATUSES,
    st.one_of(
        st.just({}),
        _ENCODING_HEADERS,
        *(st.dictionaries(_HEADER_NAMES, _HEADER_VALUES, max_size=5) for _ in range(3)),
    ),
    RESPONSE_BODIES,
)

# Stored tickets: of an older or newer version, truncated, or not a ticket at all.
_TICKET_FIELDS = st.tuples(
    *(_TEXT, _TEXT, st.sampled_from(["succeeded", "failed"])),
    *(st.none() | _TEXT for _ in range(4)),
    *(st.none() | st.just(ID_PLACEHOLDER) | _TEXT, st.none() | st.integers(0, 2**41)),
    *(st.none() | st.sampled_from([b"{}", b"null", b"[1]"]), st.none() | _TEXT),
    *(st.integers(0, 20), st.none() | _TEXT, st.integers(0, 2**41), _TEXT),
)
_OTHER_VALUE = st.recursive(st.none() | st.booleans() | st.floats() | _TEXT, st.lists, max_leaves=5)
_TICKET_ARRAYS = (
    st.builds(lambda fields, size: fields[:size], _TICKET_FIELDS, st.integers(0, 15)) | _OTHER_VALUE
)
_TICKET_HEADERS = st.builds(
    lambda generation, crashes, queued: struct.pack(">IHd", generation, crashes, queued),
    st.integers(0, 2**32 - 1),
    st.integers(0, 9),
    st.floats(max_value=1.8e12) | st.floats(0, 1.8e12),
)
_STORED_TICKET = st.builds(
    lambda header, fields: header + msgspec.msgpack.encode(fields), _TICKET_HEADERS, _TICKET_ARRAYS
)
STORED_TICKETS = st.one_of(
    *(_STORED_TICKET,) * 4,
    st.builds(lambda stored, size: stored[:size], _STORED_TICKET, st.integers(0, 40)),
    st.binary(max_size=60),
)

# A native webhook: its body, and additional headers.
_EVENT_BODY = _optional(
    projectKey=_TEXT,
    environmentKey=_TEXT,
    applicationKey=_TEXT,
    version=_TEXT,
    eventType=st.sampled_from(["finished", "failed", "started"]),
    eventTime=_NUMBER | _TEXT,
    deploymentId=st.uuids().map(str) | _TEXT,
    eventMetadata=_JSON,
    deploymentMetadata=_JSON,
).map(lambda event: json.dumps(event).encode())
EVENT_BODIES = st.one_of(*(_EVENT_BODY,) * 4, _JSON_BODY, st.binary(max_size=60))
EXTRA_HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "traceparent",
            "Content-Type",
            "Content-Encoding",
            "ce-id",
            "ce-type",
            "ce-time",
            "X-Other",
        ]
    ),
    _HEADER_VALUES
    | st.sampled_from(["gzip", "deflate", "application/cloudevents-batch+json", "a;b=c;;"]),
    max_size=4,
)

# Nearly valid TOML files of sources.
_TOML_STRINGS = st.sampled_from(
    [
        "native",
        "github",
        "standard-webhooks",
        "none",
        "env:X",
        "body.a",
        "headers.b",
        "[[[",
        "a || b",
    ]
)
_TOML_VALUE = st.one_of(
    _TOML_STRINGS.map(json.dumps),
    st.text(max_size=12).map(json.dumps),
    st.lists(_TOML_STRINGS, max_size=2).map(json.dumps),
    st.sampled_from(
        ["true", "1", "1.5", "{ }", "[]", '{ hmac = "X-A" }', '{ path = "a" }', "2026-01-01"]
    ),
    st.builds(
        '{{ {} = "{}" }}'.format,
        st.sampled_from(["hmac", "token", "body.a", "path"]),
        _TOML_STRINGS,
    ),
)
_TOML_KEYS = st.sampled_from(
    [
        *("name", "preset", "secrets", "verify", "when", "outcome", "dedupe", "fields", "project"),
        *("environments", "applications", "strict", "fields.version", "fields.id", "odd"),
    ]
)
_TOML_LINE = st.builds("{} = {}".format, _TOML_KEYS, _TOML_VALUE) | st.text(max_size=10)
_TOML_TABLES = st.sampled_from(
    ["[[source]]", "[source]", "[preset.x]", "[preset.x.fields]", "[[preset]]"]
)
_VALID_SOURCE = st.just('[[source]]\nname = "a"\npreset = "native"\nsecrets = ["env:X"]')
SOURCE_FILES = st.lists(
    _VALID_SOURCE
    | st.builds("{}\n{}".format, _TOML_TABLES, st.lists(_TOML_LINE, max_size=6).map("\n".join)),
    max_size=3,
).map("\n".join)
