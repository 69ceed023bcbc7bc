"""Is this Redis well, and does it keep what we promise? Judged from what it says of itself."""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from service.operate.doctor.finding import (
    Finding,
    find_odd,
    find_well,
    find_wrong,
    judge_clock,
    split_advice,
)

_BLUR_S = 1.0
_NEARLY_FULL, _FULL = 0.8, 0.95


class StoreFacts(Struct, frozen=True, kw_only=True):
    """What was asked of Redis. With ``trouble`` it is away; ``bad_password``: it refuses us.

    ``refusal`` and ``warnings`` are what the service itself would say at start. ``own``: no Redis
    is named, so `run` starts one, if ``startable``. ``promise`` is how writes are kept.
    """

    place: str
    own: bool
    startable: bool = True
    trouble: str = ""
    bad_password: bool = False
    refusal: str = ""
    warnings: tuple[str, ...] = ()
    promise: str = ""
    durability: str = "fsync"
    info: Mapping[str, str] = {}
    ahead_s: float | None = None


def judge_store(facts: StoreFacts) -> Iterator[Finding]:
    """Judge Redis; once it is away there is nothing more to say."""
    if facts.trouble:
        yield _judge_absence(facts)
        return
    yield find_well("redis", f"answers at {facts.place}, {_name_version(facts.info)}")
    if facts.refusal:
        found, fix = split_advice(facts.refusal)
        yield find_wrong("redis durability", found, fix)
    elif facts.durability == "memory":
        yield find_odd(
            "redis durability",
            "nothing is waited for: a crash of Redis loses webhooks that were accepted",
            "say ENRICHER_DURABILITY=fsync",
        )
    else:
        yield find_well("redis durability", f"{facts.durability}: {facts.promise}")
    for warning in facts.warnings:
        found, fix = split_advice(warning)
        yield find_odd("redis fitness", found, fix)
    yield from _judge_disk(facts.info)
    yield _judge_memory(facts.info)
    yield judge_clock("redis clock", facts.ahead_s, whose="Redis's clock", blur_s=_BLUR_S)


def _judge_absence(facts: StoreFacts) -> Finding:
    if facts.bad_password:
        fix = "mend user and password in ENRICHER_REDIS_URL"
        return find_wrong("redis", f"{facts.place} does not let us in: {facts.trouble}", fix)
    if not facts.own:
        fix = "start it, or mend ENRICHER_REDIS_URL; until then webhooks are answered with 503"
        return find_wrong("redis", f"{facts.place} is away: {facts.trouble}", fix)
    if facts.startable:
        fix = "start `run`, or name yours by ENRICHER_REDIS_URL"
        return find_odd("redis", f"our own does not run ({facts.place})", fix)
    fix = "pip install 'deployment-enricher[embedded]', or name yours by ENRICHER_REDIS_URL"
    return find_wrong("redis", "none is named, and there is no server to start", fix)


def _name_version(info: Mapping[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else "of unknown version"


def _judge_disk(info: Mapping[str, str]) -> Iterator[Finding]:
    """Judge whether the last writes to disk went well, as far as Redis tells."""
    ill = {
        "aof_last_write_status": "the last write to the append-only file failed",
        "aof_last_bgrewrite_status": "the last rewrite of the append-only file failed",
        "rdb_last_bgsave_status": "the last snapshot failed",
    }
    found = [told for name, told in ill.items() if info.get(name, "ok") != "ok"]
    if found:
        yield find_wrong("redis disk", "; ".join(found), "see Redis's log; is its disk full?")
    elif "aof_enabled" in info:
        kept = "an append-only file" if info["aof_enabled"] == "1" else "snapshots at most"
        yield find_well("redis disk", f"writes {kept}, without errors")


def _judge_memory(info: Mapping[str, str]) -> Finding:
    used, most = (_read_number(info, name) for name in ("used_memory", "maxmemory"))
    if used is None:
        return find_odd("redis memory", "Redis does not tell", "allow INFO in the ACL of our user")
    if not most:
        return find_well("redis memory", f"{_write_size(used)} used, no maxmemory")
    told = f"{_write_size(used)} of {_write_size(most)} used"
    if used < most * _NEARLY_FULL:
        return find_well("redis memory", told)
    fix = "raise maxmemory, or lower ENRICHER_STREAM_RETENTION; when full, webhooks get 503"
    return (find_wrong if used >= most * _FULL else find_odd)("redis memory", told, fix)


def _read_number(info: Mapping[str, str], name: str) -> int | None:
    text = info.get(name, "")
    return int(text) if text.isdecimal() else None


def _write_size(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 else f"{size / 1024**2:.1f} MiB"
