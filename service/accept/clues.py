"""What of a request must be kept beside its body, so that it can be read again later?

The few headers and parameters that the expressions of its source name, and what says which kind of
body it is. Never one that carries a secret.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jmespath
from msgspec import Struct

from service.accept.expressions import Expression
from service.accept.signature import Signed, SignedRequest, Token
from service.accept.sources import Fields, Source

_KIND, _ENVELOPE = "content-type", "application/cloudevents+json"
_SECRET = {"authorization", "proxy-authorization", "cookie"}


class Clues(Struct, frozen=True):
    """Headers, by lower-case name, and parameters of the URL."""

    headers: dict[str, str] = {}
    query: dict[str, str] = {}


def keep_clues(source: Source, request: SignedRequest, *, batched: bool = False) -> Clues:
    """Pick what is to be kept; an event out of a batch is kept as one that came alone."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    named = {name.replace("_", "-").lower() for name in _list_mentions(source, "headers")}
    wanted = {_KIND, *named} | {name for name in headers if name.startswith("ce-")}
    kept = _pick(headers, wanted - _SECRET - _list_proofs(source, "header"))
    if batched:
        kept = {name: value for name, value in kept.items() if not name.startswith("ce-")}
        kept[_KIND] = _ENVELOPE
    parameters = _list_mentions(source, "query") - _list_proofs(source, "query")
    return Clues(kept, _pick(request.query, parameters))


def _pick(given: Mapping[str, str], wanted: set[str]) -> dict[str, str]:
    """Give what is wanted and there; bytes that are no UTF-8 could not be stored."""
    return {
        name: given[name].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for name in sorted(wanted)
        if name in given
    }


def _list_proofs(source: Source, place: str) -> set[str]:
    """List what holds a secret or a signature: where ``place`` is a header or in the query."""
    proofs = (
        getattr(scheme, place, None)
        for scheme in source.schemes
        if isinstance(scheme, Token | Signed)
    )
    return {name.lower() if place == "header" else name for name in proofs if name}


def _list_mentions(source: Source, whole: str) -> set[str]:
    """List the names that any expression of a source looks up in ``headers`` or ``query``."""
    return {
        name
        for expression in _list_expressions(source)
        for name in _find_mentions(jmespath.compile(expression.text).parsed, whole)
    }


def _list_expressions(source: Source) -> Iterator[Expression]:
    yield source.outcome.expression
    yield from (condition.expression for condition in source.when)
    fields = (getattr(source.fields, name) for name in Fields.__struct_fields__)
    yield from (one for one in (source.dedupe, *fields) if one is not None)


def _find_mentions(node: Mapping[str, Any], whole: str) -> Iterator[str]:
    children = [child for child in node["children"] if isinstance(child, Mapping)]
    first = children[0] if children else None
    if first is not None and first["type"] == "field" and first.get("value") == whole:
        for child in children[1:]:
            yield from _find_fields(child)
    for child in children:
        yield from _find_mentions(child, whole)


def _find_fields(node: Mapping[str, Any]) -> Iterator[str]:
    if node["type"] == "field":
        yield node["value"]
    for child in node["children"]:
        if isinstance(child, Mapping):
            yield from _find_fields(child)
