"""How are many pages made one deployment, without losing a byte of what we do not know?

Only the collections that grow are taken apart; every field and item stays the very bytes that
LaunchDarkly sent (:class:`msgspec.Raw`).
"""

import msgspec
from msgspec import Raw, Struct

from service.enrich.deployment import Link
from service.enrich.pages import read_href

_NULL = b"null"
_Fields = dict[str, Raw]


class _Identified(Struct, frozen=True):
    id: str | None = None


class _Outline(Struct, frozen=True, rename={"total": "totalCount", "links": "_links"}):
    total: int | None = None
    items: list[Raw] | None = None
    links: dict[str, Link | None] | None = None


class Collection:
    """One paged collection while it is gathered. Each item stands in it once."""

    def __init__(self, raw: Raw) -> None:
        outline = msgspec.json.decode(raw, type=_Outline, strict=False)
        self._fields = msgspec.json.decode(raw, type=_Fields)
        self._total = outline.total
        self._href = read_href(outline.links)
        self._visited: set[str] = set()
        self._known = {_identify(item) for item in outline.items or ()}
        self.items = list(outline.items or ())
        self.grown = False
        self.stopped: str | None = None

    def next_href(self) -> str | None:
        """Give the link to follow, or None at the end; a link seen before ends it."""
        if self.stopped is not None or self._href is None:
            return None
        if self._total is not None and len(self.items) >= self._total:
            return None
        if self._href in self._visited:
            self.stopped = "pages repeat"
            return None
        self._visited.add(self._href)
        return self._href

    def add_page(self, body: bytes) -> None:
        """Take in one more page: new items up to the total, and where it says to go on."""
        try:
            body.decode()
            page = msgspec.json.decode(body, type=_Outline, strict=False)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.stopped = "a page could not be read"
            return
        fresh = [item for item in page.items or () if self._is_new(item)]
        if self._total is not None:
            fresh = fresh[: max(0, self._total - len(self.items))]
        if not fresh:
            self.stopped = "a page held nothing new"
            return
        self._known.update(map(_identify, fresh))
        self.items.extend(fresh)
        self.grown = True
        self._href = read_href(page.links)

    def encode(self) -> Raw:
        """Give the collection with all that was gathered."""
        if not self.grown:
            return Raw(msgspec.json.encode(self._fields))
        return Raw(msgspec.json.encode(self._fields | {"items": self.items}))

    def _is_new(self, item: Raw) -> bool:
        identity = _identify(item)
        return identity is not None and identity not in self._known


class Whole:
    """A deployment while its pages are gathered: its pull requests, then their deployments."""

    def __init__(self, body: bytes) -> None:
        self._fields = msgspec.json.decode(body, type=_Fields)
        self.pull_requests = _take_collection(self._fields, "pullRequests")
        self._nested: dict[int, tuple[_Fields, Collection]] = {}

    def open_nested(self) -> list[Collection]:
        """Give the ``deployments`` of every pull request gathered so far."""
        items = [] if self.pull_requests is None else self.pull_requests.items
        for place, item in enumerate(items):
            if place not in self._nested and bytes(item) != _NULL:
                fields = msgspec.json.decode(item, type=_Fields)
                nested = _take_collection(fields, "deployments")
                if nested is not None:
                    self._nested[place] = (fields, nested)
        return [nested for _, nested in self._nested.values()]

    def why_stopped(self) -> str | None:
        """Say why gathering ended early, if it did."""
        collections = [self.pull_requests, *(nested for _, nested in self._nested.values())]
        return next((c.stopped for c in collections if c is not None and c.stopped), None)

    def encode(self) -> bytes:
        """Give the deployment with every page merged."""
        pulls = self.pull_requests
        if pulls is None:
            return msgspec.json.encode(self._fields)
        for place, (fields, nested) in self._nested.items():
            if nested.grown:
                changed = fields | {"deployments": nested.encode()}
                pulls.items[place] = Raw(msgspec.json.encode(changed))
                pulls.grown = True
        return msgspec.json.encode(self._fields | {"pullRequests": pulls.encode()})


def _take_collection(fields: _Fields, name: str) -> Collection | None:
    raw = fields.get(name)
    return None if raw is None or bytes(raw) == _NULL else Collection(raw)


def _identify(item: Raw) -> str | None:
    try:
        return msgspec.json.decode(item, type=_Identified).id
    except msgspec.MsgspecError:
        return None
