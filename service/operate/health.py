"""Is it well? Alive while the process answers, ready while it can keep its promises."""

from collections.abc import Callable, Sequence
from typing import cast

from aiohttp import web
from msgspec import Struct, json

from service.enrich.budget import load_budget_prelude
from service.store import RedisUnavailable
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

_PROBE_TIMEOUT_S = 2.0


class HealthStats(Struct, frozen=True, kw_only=True):
    """How things stand at one moment.

    ``closed_s`` is 0 unless LaunchDarkly told us to keep off, and ``why`` says what for. ``room``
    is how many calls may be made now; while the quota is met it is 0, and ``opens_s`` more than 0.
    """

    backlog: int
    failed: int
    records: int
    closed_s: float
    closed_reason: str
    in_flight: int
    calls_left: int
    next_call_in_s: float


class HealthReader:
    """Looks at one namespace; looking also proves that Redis takes writes.

    ``share`` is the part of each LaunchDarkly limit that is ours.
    """

    def __init__(self, group_commit: GroupCommit, *, keys: Keys, share: float = 1.0) -> None:
        self._group_commit = group_commit
        self._keys = (
            *(
                keys.backlog,
                keys.failed,
                keys.enriched,
                keys.budget,
                keys.budget_calls,
                keys.budget_waiting,
            ),
            keys.write_probe,
        )
        self._share = share
        self._script: Script = load_script(__package__, "look", prelude=load_budget_prelude())

    async def read_stats(self) -> HealthStats:
        """See how things stand; raises Unavailable when Redis cannot be written in time."""
        reply = await self._group_commit.submit(
            self._script, keys=self._keys, args=(self._share,), timeout_s=_PROBE_TIMEOUT_S
        )
        (
            backlog,
            failed,
            records,
            closed_ms,
            closed_reason,
            in_flight,
            calls_left,
            next_call_in_ms,
        ) = cast("tuple[int, int, int, int, bytes, int, int, int]", reply)
        return HealthStats(
            backlog=backlog,
            failed=failed,
            records=records,
            closed_s=closed_ms / 1000,
            closed_reason=closed_reason.decode(),
            in_flight=in_flight,
            calls_left=calls_left,
            next_call_in_s=next_call_in_ms / 1000,
        )


class HealthRoutes:
    """The two questions of whoever runs us: restart it? send it traffic?

    ``list_warnings`` gives what a person should mend although traffic is welcome.
    """

    def __init__(
        self,
        stats_reader: HealthReader,
        *,
        backlog_limit: int,
        list_warnings: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._stats_reader = stats_reader
        self._backlog_limit = backlog_limit
        self._list_warnings = list_warnings

    def add_routes(self, app: web.Application) -> None:
        """Answer ``/healthz`` and ``/readyz``."""
        app.router.add_get("/healthz", self._handle_healthz)
        app.router.add_get("/readyz", self._handle_readyz)

    async def _handle_healthz(self, _: web.Request) -> web.Response:
        return _build_json_response(200, {"status": "alive"})

    async def _handle_readyz(self, _: web.Request) -> web.Response:
        try:
            stats = await self._stats_reader.read_stats()
        except RedisUnavailable as error:
            return _build_json_response(
                503, {"status": "not ready", "reasons": [f"redis: {error}"]}
            )
        reasons = []
        if stats.backlog >= self._backlog_limit:
            reasons.append(
                f"backlog: {stats.backlog} tickets wait, the limit is {self._backlog_limit}"
            )
        if stats.closed_reason == "token refused":
            reasons.append("token: LaunchDarkly refuses the access token")
        if reasons:
            return _build_json_response(503, {"status": "not ready", "reasons": reasons})
        body: dict[str, object] = {"status": "ready", "waiting": stats.backlog}
        if warnings := self._list_warnings():
            body["warnings"] = warnings
        return _build_json_response(200, body)


def _build_json_response(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=json.encode(body), content_type="application/json")
