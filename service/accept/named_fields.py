"""The fields that the expressions of a source name, and the decoding of no more than these.

Decoding 25 MiB of JSON as a whole takes a third of a second, during which no other thread runs, and
several times its memory. Scanning them takes 20 to 100 ms. So of a large body only those fields
are decoded that an expression may look at.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Optional, TypeAlias

import jmespath
import msgspec

from service.accept.expressions import Expression, Node

LARGE_BYTES = 1 << 18
"""From this size on a body is large. A smaller one takes less than 4 ms."""

FieldTree: TypeAlias = dict[str, Optional["FieldTree"]]
"""The named fields of an object, each with those inside it; None: all that is inside it."""

Path: TypeAlias = tuple[str, ...] | None
"""Where a value lies in the input; None for a value that was made of others, which are named."""

_PATH_NODES = {"subexpression", "pipe"}
_ITEM_NODES = {"projection", "value_projection", "filter_projection", "index_expression"}


def find_named_fields(expressions: Iterable[Expression]) -> FieldTree | None:
    """Return the fields of the input that expressions name; None if they may look at all of it."""
    paths: set[tuple[str, ...]] = set()
    for expression in expressions:
        _add_path(_walk(jmespath.compile(expression.text).parsed, (), paths), paths)
    tree: FieldTree = {}
    for path in sorted(paths):  # a shorter path comes first, and includes the longer ones
        if not path:
            return None
        _add_to_tree(tree, path)
    return tree


def decode_fields(text: bytes | msgspec.Raw, fields: FieldTree | None) -> object:
    """Return a JSON value with the given fields only; without fields, None for null, else False.

    Raise ValueError for malformed JSON, RecursionError for JSON that is too deep.
    """
    if fields is None:
        return msgspec.json.decode(text)
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:  # an expression finds no field in it, whatever it is
        return None if bytes(memoryview(text)[:64]).lstrip().startswith(b"null") else False
    return {
        name: decode_fields(members[name], inner)
        for name, inner in fields.items()
        if name in members
    }


def _walk(node: Node, at: Path, paths: set[tuple[str, ...]]) -> Path:
    """Return where the value of a node lies, if it is evaluated ``at`` a path; add what it uses."""
    kind, children = node["type"], [child for child in node["children"] if _is_node(child)]
    if kind == "field":
        return None if at is None else (*at, node["value"])
    if kind in {"current", "identity"}:
        return at
    if kind in _PATH_NODES:
        for child in children:
            at = _walk(child, at, paths)
        return at
    for index, child in enumerate(children):
        # What follows in a projection, and what a function calls, is evaluated at items.
        is_of_items = (kind in _ITEM_NODES and index > 0) or kind == "expref"
        _add_path(_walk(child, None if is_of_items else at, paths), paths)
    return None


def _is_node(child: Any) -> bool:
    return isinstance(child, Mapping)  # a slice's children are numbers


def _add_path(path: Path, paths: set[tuple[str, ...]]) -> None:
    if path is not None:
        paths.add(path)


def _add_to_tree(tree: FieldTree, path: tuple[str, ...]) -> None:
    *parents, last = path
    for name in parents:
        inner = tree.setdefault(name, {})
        if inner is None:
            return
        tree = inner
    tree[last] = None
