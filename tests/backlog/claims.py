"""Functions of the backlog's tests: build a backlog, claim from it, empty it."""

import asyncio
from collections.abc import Callable

from service.backlog.backlog import Backlog, BacklogConfig
from service.backlog.failures import FailureRecord
from service.backlog.ticket import Lease
from service.enrich.budget import load_budget_prelude
from service.store.group_commit import GroupCommit
from service.store.keys import Keys


def build_backlog(
    group_commit: GroupCommit,
    *,
    keys: Keys,
    config: BacklogConfig,
    new_token: Callable[[], str],
) -> Backlog:
    """Return a backlog whose script calls have the tokens that the test chooses."""
    return Backlog(
        group_commit,
        keys=keys,
        config=config,
        budget_lua=load_budget_prelude(),
        new_token=new_token,
    )


async def claim_lease(backlog: Backlog) -> Lease:
    """Claim one ticket, as soon as one is due."""
    async with asyncio.timeout(5):
        while True:
            for lease in (await backlog.claim(1)).leases:
                assert isinstance(lease, Lease)
                return lease
            await asyncio.sleep(0.01)


async def fail_remaining(backlog: Backlog) -> None:
    """Fail every ticket that is still in the backlog."""
    async with asyncio.timeout(5):
        while (claimed := await backlog.claim(10)).leases or claimed.sleep_s is not None:
            for lease in claimed.leases:
                await backlog.fail(lease, FailureRecord(reason="test"))
            await asyncio.sleep(0.01)
