"""Runs: one process at a time lists a scope; its checkpoint says where the next run starts."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal, cast

import msgspec
from msgspec import Struct

from service.reconcile.missed import MissedDeployment
from service.store import RedisUnavailable
from service.store.group_commit import GroupCommit, ScriptArgument
from service.store.keys import Keys
from service.store.script import load_script

_RENEWALS_PER_LEASE = 3
_RELEASE_TIMEOUT_S = 2.0

RunEnd = Literal["ended", "released", "continue"]


class LeaseLost(Exception):
    """Another process holds the run now."""


class Run(Struct, frozen=True):
    """A run that this process holds: scope, token, Redis time (ms), checkpoint of the last run.

    ``out_of_view`` are the deployments that were open when the last run ended and that started
    before its checkpoint, with their starts (ms).
    """

    scope_name: str
    token: str
    now_ms: int
    checkpoint: int | None
    out_of_view: Mapping[str, int] = {}


class QueueResult(Struct, frozen=True):
    """How many missed deployments were queued, and the ids of those that are left for later."""

    queued: int
    deferred: frozenset[str] = frozenset()


class Runs:
    """The runs of one namespace. ``new_token`` names a holder; state expires after ``ttl_ms``."""

    def __init__(
        self,
        group: GroupCommit,
        *,
        keys: Keys,
        new_token: Callable[[], str],
        ttl_ms: int,
        lease_ms: int = 30_000,
    ) -> None:
        self._group = group
        self._keys = keys
        self._new_token = new_token
        self._ttl_ms = ttl_ms
        self._lease_ms = lease_ms
        self._begin, self._queue_missed, self._end = (
            load_script(__package__, name) for name in ("begin_run", "queue_missed", "end_run")
        )

    @asynccontextmanager
    async def hold(self, scope_name: str, *, interval_ms: int) -> AsyncIterator[Run | float]:
        """Yield a run and renew its lease; or yield the seconds after which to try again."""
        token = self._new_token()
        reply = await self._group.submit(
            self._begin,
            keys=(self._keys.reconcile(scope_name),),
            args=(token, self._lease_ms, interval_ms, self._ttl_ms),
        )
        status, time_ms, *rest = cast("list[bytes | int]", reply)
        if status == b"wait":
            yield int(time_ms) / 1000
            return
        checkpoint = int(rest[0]) if rest[0] else None
        out_of_view = _decode_out_of_view(cast("bytes", rest[1]))
        run = Run(scope_name, token, int(time_ms), checkpoint, out_of_view)
        renewal_task = asyncio.create_task(self._renew_lease(run), name="renew-run")
        try:
            yield run
        finally:
            renewal_task.cancel()
            await asyncio.gather(renewal_task, return_exceptions=True)
            with suppress(RedisUnavailable):  # a stop does not wait for Redis: the lease runs out
                await self._submit_end(run, "", "released", timeout_s=_RELEASE_TIMEOUT_S)

    async def queue_missed(
        self,
        run: Run,
        missed: Sequence[MissedDeployment],
        *,
        dry_run: bool = False,
        defers: bool = True,
    ) -> QueueResult:
        """Schedule refreshes of missed deployments, durably. Raise LeaseLost.

        With ``defers``, a deployment whose version has a waiting ticket is left for later: the
        ticket may find this deployment or another one.
        """
        keys = self._keys
        args: list[ScriptArgument] = [
            run.token,
            self._lease_ms,
            self._ttl_ms,
            "dry" if dry_run else "",
            "defer" if defers else "",
        ]
        for deployment in missed:
            args += [deployment.deployment_id, deployment.version_job, deployment.ticket]
        reply = await self._group.submit(
            self._queue_missed,
            keys=(
                *(
                    keys.reconcile(run.scope_name),
                    keys.tickets,
                    keys.refreshes,
                    keys.refresh_tickets,
                    keys.failed,
                ),
                *(keys.published(deployment.deployment_id) for deployment in missed),
            ),
            args=args,
            durable=not dry_run,
        )
        queued, *deferred = cast("list[int]", reply)
        if queued < 0:
            raise LeaseLost(run.scope_name)
        return QueueResult(queued, frozenset(missed[n - 1].deployment_id for n in deferred))

    async def end(
        self,
        run: Run,
        checkpoint: int,
        outcome: RunEnd = "ended",
        *,
        out_of_view: Mapping[str, int] | None = None,
    ) -> None:
        """Store the checkpoint and what is out of view, and end the run."""
        await self._submit_end(run, checkpoint, outcome, out_of_view=out_of_view or {})

    async def _submit_end(
        self,
        run: Run,
        checkpoint: int | str,
        outcome: RunEnd,
        *,
        out_of_view: Mapping[str, int] | None = None,
        timeout_s: float = math.inf,
    ) -> None:
        await self._group.submit(
            self._end,
            keys=(self._keys.reconcile(run.scope_name),),
            args=(
                run.token,
                checkpoint,
                outcome,
                "" if out_of_view is None else msgspec.json.encode(out_of_view),
            ),
            timeout_s=timeout_s,
        )

    async def _renew_lease(self, run: Run) -> None:
        while True:
            await asyncio.sleep(self._lease_ms / 1000 / _RENEWALS_PER_LEASE)
            await self.queue_missed(run, (), dry_run=True)


def _decode_out_of_view(stored: bytes) -> dict[str, int]:
    return msgspec.json.decode(stored, type=dict[str, int]) if stored else {}
