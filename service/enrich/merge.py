"""How are many pages made one deployment, without losing a byte of what we do not know?

Only the collections that grow are taken apart; every field and item stays the very bytes that
LaunchDarkly sent (:class:`msgspec.Raw`).
"""

import msgspec
from msgspec import Raw, Struct

from service.enrich.deployment import NestedDeployments, PullRequests
from service.enrich.pages import read_href

_NULL = b"null"
_Fields = dict[str, Raw]
_Shape = type[PullRequests] | type[NestedDeployments]


class _Identified(Struct, frozen=True):
    id: str | None = None


class Collection:
    """One paged collection while it is gathered: what a page adds stands in it once.

    Every page must have the ``shape`` of the collection. Raises msgspec.MsgspecError or
    RecursionError when ``raw`` is no collection.
    """

    def __init__(self, raw: Raw, shape: _Shape) -> None:
        outline = msgspec.json.decode(raw, type=NestedDeployments, strict=False)
        self._shape = shape
        self._fields = msgspec.json.decode(raw, type=_Fields)
        self._total = outline.total_count
        self._href = read_href(outline.links)
        self._visited: set[str] = set()
        self.items = list(outline.items or ())
        self._known = set(map(_identify, self.items))
        self.grown = False
        self.stopped: str | None = None

    def next_href(self) -> str | None:
        """Give the link to follow, or None at the end; a link seen before ends it."""
        if self.stopped is not None or not self._href:
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
            msgspec.json.decode(body, type=self._shape, strict=False)
            page = msgspec.json.decode(body, type=NestedDeployments, strict=False)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.stopped = "a page could not be read"
            return
        before = len(self.items)
        for item in page.items or ():
            self._add_item(item)
        if len(self.items) == before:
            self.stopped = "a page held nothing new"
            return
        self.grown = True
        self._href = read_href(page.links)

    def encode(self) -> Raw:
        """Give the collection with all that was gathered."""
        return Raw(msgspec.json.encode(self._fields | {"items": self.items}))

    def _add_item(self, item: Raw) -> None:
        identity = _identify(item)
        is_full = self._total is not None and len(self.items) >= self._total
        if not is_full and identity != _NULL and identity not in self._known:
            self._known.add(identity)
            self.items.append(item)


class Whole:
    """A deployment while its pages are gathered: its pull requests, then their deployments.

    What cannot be taken apart stays as it was sent, and :meth:`why_stopped` tells.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._unopened: str | None = None
        self._fields = self._open_fields(Raw(body))
        self.pull_requests = self._open_collection(self._fields, "pullRequests", PullRequests)
        self._nested: dict[int, tuple[_Fields, Collection]] = {}

    def open_nested(self) -> list[Collection]:
        """Give the ``deployments`` of every pull request gathered so far."""
        items = [] if self.pull_requests is None else self.pull_requests.items
        for place, item in enumerate(items):
            if place not in self._nested and bytes(item) != _NULL:
                fields = self._open_fields(item)
                nested = self._open_collection(fields, "deployments", NestedDeployments)
                if nested is not None:
                    self._nested[place] = (fields, nested)
        return [nested for _, nested in self._nested.values()]

    def why_stopped(self) -> str | None:
        """Say why gathering ended early, if it did."""
        collections = [self.pull_requests, *(nested for _, nested in self._nested.values())]
        reasons = (c.stopped for c in collections if c is not None and c.stopped)
        return next(reasons, self._unopened)

    def encode(self) -> bytes:
        """Give the deployment with every page merged; the very body when no page added to it."""
        pulls = self.pull_requests
        if pulls is None:
            return self._body
        for place, (fields, nested) in self._nested.items():
            if nested.grown:
                changed = fields | {"deployments": nested.encode()}
                pulls.items[place] = Raw(msgspec.json.encode(changed))
                pulls.grown = True
        if not pulls.grown:
            return self._body
        return msgspec.json.encode(self._fields | {"pullRequests": pulls.encode()})

    def _open_fields(self, raw: Raw) -> _Fields:
        try:
            return msgspec.json.decode(raw, type=_Fields)
        except (msgspec.MsgspecError, RecursionError):
            self._unopened = "a part could not be read"
            return {}

    def _open_collection(self, fields: _Fields, name: str, shape: _Shape) -> Collection | None:
        raw = fields.get(name)
        if raw is None or bytes(raw) == _NULL:
            return None
        try:
            return Collection(raw, shape)
        except (msgspec.MsgspecError, RecursionError):
            self._unopened = "a part could not be read"
            return None


def _identify(item: Raw) -> str | bytes:
    """Give the id of an item; one without any is known by its own bytes."""
    try:
        identity = msgspec.json.decode(item, type=_Identified).id
    except (msgspec.MsgspecError, RecursionError):
        identity = None
    return bytes(item) if identity is None else identity
