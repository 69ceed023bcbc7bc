"""Tests of scripts that fail in the middle: after the repair, one more call makes it good.

A Lua error rolls nothing back. So each script is run while one of its keys has a wrong type, and
as a user who lacks one command. Afterwards the caller repeats the call without the fault. Then the
namespace must hold what it holds without the fault: no record twice, and no ticket lost.
"""

import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import structlog
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from service.store.connect import open_client
from service.store.keys import Keys
from tests.store.conftest import execute
from tests.store.script_scenarios import SCENARIOS, CallCatcher, HeldBack, ScriptCall, Stage

USER = "limited"
_TIMED_FIELDS = {b"until", b"ran", b"starting", b"claimed_at"}
_HEADER_BYTES = 14  # of a stored ticket: generation (4), crashes (2), and when it was queued (8)

# A missed wakeup is safe, and a lost milestone makes one measurement less exact.
_UNIMPORTANT_KEYS = (b":wakeup", b":milestones", b":waiting-worker", b":wakeup:token")
# An add that failed hands its ticket to nobody: the ticket waits for a claim, which gives it calls.
_UNIMPORTANT_KEYS_OF: Mapping[str, tuple[bytes, ...]] = {
    "add to a waiting worker": (b":budget:calls", b":turns", b":counts"),
    # The rate of settled tickets is measured last: without it, Retry-After is less exact.
    "append a milestone": (b":budget",),
    "append unchanged": (b":budget",),
}
# The rest is repaired soon: the entry of a failed ticket whose data is deleted already, by the next
# retry or drop; a refresh beside its ticket, by one more fetch.
_CONVERGES_LATER = {
    ("drop", "zrem"),
    ("retry", "zrem"),
    ("refresh_due", "hdel"),
    ("refresh_due", "zrem"),
}

State = Mapping[bytes, object]


class Faults(Struct):
    """Runs one call against one state, again and again.

    ``redis`` may do everything, ``limited`` what its user is allowed to; redis-py types neither.
    """

    redis: Any
    limited: Any
    keys: Keys
    call: ScriptCall
    dumps: dict[bytes, tuple[bytes, int]]
    ignored_keys: tuple[bytes, ...]

    async def run(self, client: Any = None) -> None:
        """Run the script; raise its error."""
        keys = (*self.call.keys, self.keys.clock)
        await (client or self.redis).eval(
            self.call.script.text.decode(), len(keys), *keys, *self.call.args
        )

    async def repeat(self) -> None:
        """Run the script once more, as its caller does: under another token."""
        for key in self.call.keys:
            if ":reply:" in key:
                await self.redis.delete(key)
        await self.run()

    async def list_keys(self) -> list[bytes]:
        """Return the keys of the namespace."""
        names: list[bytes] = await self.redis.keys(f"{{{self.keys.namespace}}}*")
        return names

    async def reset(self) -> None:
        """Make the state from before the call."""
        async with self.redis.pipeline() as pipeline:
            for name in await self.list_keys():
                pipeline.delete(name)
            for name, (dump, ttl) in self.dumps.items():
                pipeline.restore(name, max(ttl, 0), dump)
            await pipeline.execute()

    async def run_with_wrong_type(self, key: str) -> bool:
        """Run the script while ``key`` has a wrong type; then put the right key back.

        Return whether it failed.
        """
        saved = f"{{{self.keys.namespace}}}:saved"
        has_saved = await self.redis.exists(key) and await self.redis.rename(key, saved)
        is_string = re.search(r":(delivery|reply|probe|clock|waiting-worker)", key) is not None
        await (self.redis.sadd(key, "x") if is_string else self.redis.set(key, "x"))
        try:
            await self.run()
        except ResponseError as error:
            assert "WRONGTYPE" in str(error)  # noqa: PT017 - a script may also ignore the key
            return True
        else:
            return False
        finally:
            await self.redis.delete(key)
            if has_saved:
                await self.redis.rename(saved, key)

    async def read_state(self) -> State:
        """Return what the namespace holds, without times."""
        return {
            name: await self._read_key(name)
            for name in sorted(await self.list_keys())
            if not name.endswith(self.ignored_keys)
        }

    async def _read_key(self, name: bytes) -> object:
        match (await self.redis.type(name)).decode():
            case "hash":
                return _normalize_hash(name, await self.redis.hgetall(name))
            case "zset":
                return sorted(await self.redis.zrange(name, 0, -1))
            case "list":
                return await self.redis.lrange(name, 0, -1)
            case "stream":
                return [fields for _, fields in await self.redis.xrange(name)]
            case other_kind:
                return other_kind


def _normalize_hash(name: bytes, fields: Mapping[bytes, bytes]) -> object:
    if name.endswith(b":tickets"):
        return {job: value[4:6] + value[_HEADER_BYTES:] for job, value in fields.items()}
    if name.endswith((b":budget", b":reader-groups")):
        return sorted(fields)
    return {field: value for field, value in fields.items() if field not in _TIMED_FIELDS}


@pytest.fixture
async def limited(redis: Redis, redis_url: str) -> AsyncIterator[Redis]:
    """Yield a client whose user may run every command, until a test takes one away."""
    await _permit(redis)
    await redis.config_set("appendfsync", "no")  # thousands of writes that nobody needs on disk
    async with open_client(redis_url.replace("unix://", f"unix://{USER}:secret@")) as client:
        yield client
    await redis.config_set("appendfsync", "always")
    await redis.acl_deluser(USER)


async def _permit(redis: Redis, *rules: str) -> None:
    await execute(redis, "ACL", "SETUSER", USER, "on", ">secret", "~*", "+@all", *rules)


@pytest.fixture
async def faults(
    request: pytest.FixtureRequest, redis: Redis, limited: Redis, keys: Keys
) -> AsyncIterator[Faults]:
    """Yield the state and the call of one scenario."""
    name, scenario = SCENARIOS[request.param]
    group = CallCatcher(
        redis, durability="memory", clock=time.monotonic, log=structlog.get_logger()
    )
    try:
        act: Any = await scenario(Stage(redis, group, keys))
        group.name = name
        with pytest.raises(HeldBack):
            await act()
    finally:
        await group.aclose()
    assert group.caught is not None
    ignored_keys = _UNIMPORTANT_KEYS + _UNIMPORTANT_KEYS_OF.get(request.param, ())
    result = Faults(
        redis=redis,
        limited=limited,
        keys=keys,
        call=group.caught,
        dumps={},
        ignored_keys=ignored_keys,
    )
    for key in await result.list_keys():
        result.dumps[key] = (await result.redis.dump(key), await redis.pttl(key))
    yield result
    result.dumps.clear()
    await result.reset()


def commands_in(script_text: bytes) -> list[str]:
    """Return the commands that a script with its preludes names, as ACL rules name them."""
    calls = re.findall(rb"redis\.call\('(\w+)'(?:, '(GROUPS|CONSUMERS)')?", script_text)
    return sorted({"|".join(filter(None, map(bytes.decode, call))).lower() for call in calls})


@pytest.mark.parametrize("faults", SCENARIOS, indirect=True)
async def test_script_that_failed_for_a_wrong_type_succeeds_once_afterwards(
    faults: Faults,
) -> None:
    """Whichever key had the wrong type, the next call ends in the state of a run without fault."""
    await faults.run()
    expected = await faults.read_state()
    for key in dict.fromkeys((*faults.call.keys, faults.keys.clock)):
        await faults.reset()
        has_failed = await faults.run_with_wrong_type(key)
        if has_failed or faults.call.script.name != "claim":  # another claim would lease more
            await faults.repeat()
        assert await faults.read_state() == expected, key


@pytest.mark.parametrize("faults", SCENARIOS, indirect=True)
async def test_script_that_lacked_a_command_succeeds_once_afterwards(faults: Faults) -> None:
    """Whichever command is forbidden, a call with all rights makes up for it.

    The counts are measurements, and may differ.
    """
    await faults.run()
    expected = {**await faults.read_state(), faults.keys.counts.encode(): None}
    for command in commands_in(faults.call.script.text):
        await faults.reset()
        await _permit(faults.redis, f"-{command}")
        try:
            await faults.run(faults.limited)
        except ResponseError as error:
            assert "no permissions" in str(error)  # noqa: PT017 - the command may not be reached
            await faults.repeat()
        await _permit(faults.redis)
        if (faults.call.script.name, command) in _CONVERGES_LATER:
            continue
        assert {**await faults.read_state(), faults.keys.counts.encode(): None} == expected, command


@pytest.mark.parametrize("faults", SCENARIOS, indirect=True)
async def test_script_while_memory_is_full_does_all_or_nothing(faults: Faults) -> None:
    """A script whose header has `Flags` is executed. Any other one is refused before it begins."""
    before = await faults.read_state()
    await faults.run()
    expected = await faults.read_state()
    await faults.reset()
    await faults.redis.config_set("maxmemory", 1)
    try:
        await faults.run()
    except OutOfMemoryError:
        assert not faults.call.script.runs_when_full
        expected = before
    else:
        assert faults.call.script.runs_when_full
    finally:
        await faults.redis.config_set("maxmemory", 0)
    assert await faults.read_state() == expected
