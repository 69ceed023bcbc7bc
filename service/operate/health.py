"""Is it well? Alive while the process answers, ready while it can keep its promises."""

from collections.abc import Callable, Sequence
from typing import cast

from aiohttp import web
from msgspec import Struct, json

from service.enrich.budget import load_room
from service.store import Unavailable
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

_PATIENCE_S = 2.0


class Standing(Struct, frozen=True, kw_only=True):
    """How things stand at one moment.

    ``closed_s`` is 0 unless LaunchDarkly told us to keep off, and ``why`` says what for. ``room``
    is how many calls may be made now; while the quota is met it is 0, and ``opens_s`` more than 0.
    """

    waiting: int
    failed: int
    entries: int
    closed_s: float
    why: str
    in_flight: int
    room: int
    opens_s: float


class Lookout:
    """Looks at one namespace; looking also proves that Redis takes writes.

    ``share`` is the part of each LaunchDarkly limit that is ours.
    """

    def __init__(self, group: GroupCommit, *, keys: Keys, share: float = 1.0) -> None:
        self._group = group
        self._keys = (
            *(keys.backlog, keys.failed, keys.enriched, keys.budget, keys.calls, keys.callers),
            keys.probe,
        )
        self._share = share
        self._look: Script = load_script(__package__, "look", prelude=load_room())

    async def look(self) -> Standing:
        """See how things stand; raises Unavailable when Redis cannot be written in time."""
        reply = await self._group.submit(
            self._look, keys=self._keys, args=(self._share,), patience_s=_PATIENCE_S
        )
        waiting, failed, entries, closed_ms, why, in_flight, room, shut_ms = cast(
            "tuple[int, int, int, int, bytes, int, int, int]", reply
        )
        return Standing(
            waiting=waiting,
            failed=failed,
            entries=entries,
            closed_s=closed_ms / 1000,
            why=why.decode(),
            in_flight=in_flight,
            room=room,
            opens_s=shut_ms / 1000,
        )


class Health:
    """The two questions of whoever runs us: restart it? send it traffic?

    ``list_warnings`` gives what a person should mend although traffic is welcome.
    """

    def __init__(
        self,
        lookout: Lookout,
        *,
        backlog_limit: int,
        list_warnings: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._lookout = lookout
        self._limit = backlog_limit
        self._list_warnings = list_warnings

    def add_to(self, app: web.Application) -> None:
        """Answer ``/healthz`` and ``/readyz``."""
        app.router.add_get("/healthz", self._tell_alive)
        app.router.add_get("/readyz", self._tell_ready)

    async def _tell_alive(self, _: web.Request) -> web.Response:
        return _answer(200, {"status": "alive"})

    async def _tell_ready(self, _: web.Request) -> web.Response:
        try:
            standing = await self._lookout.look()
        except Unavailable as error:
            return _answer(503, {"status": "not ready", "reasons": [f"redis: {error}"]})
        reasons = []
        if standing.waiting >= self._limit:
            reasons.append(f"backlog: {standing.waiting} tickets wait, the limit is {self._limit}")
        if standing.why == "token refused":
            reasons.append("token: LaunchDarkly refuses the access token")
        if reasons:
            return _answer(503, {"status": "not ready", "reasons": reasons})
        said: dict[str, object] = {"status": "ready", "waiting": standing.waiting}
        if warnings := self._list_warnings():
            said["warnings"] = warnings
        return _answer(200, said)


def _answer(status: int, said: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=json.encode(said), content_type="application/json")
