"""The part of a request that is kept beside the body, so that a parked event can be mapped again.

These are the headers and URL parameters that the expressions of the source name, and the headers
that tell the kind of body. A header or parameter that carries a secret is never kept.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jmespath
from msgspec import Struct

from service.accept.expressions import Expression
from service.accept.signatures import SignatureScheme, SignedRequest, Token
from service.accept.sources import Fields, Source

_CONTENT_TYPE, _CLOUDEVENT_JSON = "content-type", "application/cloudevents+json"
_SECRET_HEADERS = {"authorization", "proxy-authorization", "cookie"}


class ReplayContext(Struct, frozen=True):
    """The kept headers, by lower-case name, and the kept parameters of the URL."""

    headers: dict[str, str] = {}
    query: dict[str, str] = {}


def replay_context(
    source: Source, request: SignedRequest, *, batched: bool = False
) -> ReplayContext:
    """Return what to keep of a request; an event of a batch is kept as if it had come alone."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    mentioned_headers = {
        name.replace("_", "-").lower() for name in _list_mentioned_names(source, "headers")
    }
    header_names = {_CONTENT_TYPE, *mentioned_headers} | {
        name for name in headers if name.startswith("ce-")
    }
    kept_headers = _select_values(
        headers, header_names - _SECRET_HEADERS - _list_secret_names(source, "header")
    )
    if batched:
        kept_headers = {
            name: value for name, value in kept_headers.items() if not name.startswith("ce-")
        }
        kept_headers[_CONTENT_TYPE] = _CLOUDEVENT_JSON
    query_names = _list_mentioned_names(source, "query") - _list_secret_names(source, "query")
    return ReplayContext(kept_headers, _select_values(request.query, query_names))


def _select_values(values: Mapping[str, str], names: set[str]) -> dict[str, str]:
    """Return the values under ``names``; bytes that are not UTF-8 are replaced, to be storable."""
    return {
        name: values[name].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for name in sorted(names)
        if name in values
    }


def _list_secret_names(source: Source, location: str) -> set[str]:
    """Return the names of headers or URL parameters that hold a secret or a signature."""
    names = (
        getattr(scheme, location, None)
        for scheme in source.schemes
        if isinstance(scheme, Token | SignatureScheme)
    )
    return {name.lower() if location == "header" else name for name in names if name}


def _list_mentioned_names(source: Source, root: str) -> set[str]:
    """Return the names that expressions of a source look up in ``headers`` or ``query``."""
    return {
        name
        for expression in list_expressions(source)
        for name in _iter_mentioned_names(jmespath.compile(expression.text).parsed, root)
    }


def list_expressions(source: Source) -> Iterator[Expression]:
    """Yield every expression that is evaluated over a webhook of a source."""
    yield source.outcome.expression
    yield from (condition.expression for condition in source.when)
    field_expressions = (getattr(source.fields, name) for name in Fields.__struct_fields__)
    yield from (
        expression for expression in (source.dedupe, *field_expressions) if expression is not None
    )


def _iter_mentioned_names(node: Mapping[str, Any], root: str) -> Iterator[str]:
    children = [child for child in node["children"] if isinstance(child, Mapping)]
    first = children[0] if children else None
    if first is not None and first["type"] == "field" and first.get("value") == root:
        for child in children[1:]:
            yield from _iter_field_names(child)
    for child in children:
        yield from _iter_mentioned_names(child, root)


def _iter_field_names(node: Mapping[str, Any]) -> Iterator[str]:
    if node["type"] == "field":
        yield node["value"]
    for child in node["children"]:
        if isinstance(child, Mapping):
            yield from _iter_field_names(child)
