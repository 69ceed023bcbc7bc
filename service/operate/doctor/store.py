"""Is this Redis well, and does it keep what we promise? Judged from what it says of itself."""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from service.operate.doctor.finding import (
    Finding,
    check_clock,
    fail,
    ok,
    split_fix,
    warn,
)

_REDIS_CLOCK_TOLERANCE_S = 1.0
_MEMORY_WARN_SHARE, _MEMORY_FAIL_SHARE = 0.8, 0.95


class RedisFacts(Struct, frozen=True, kw_only=True):
    """What was asked of Redis. With ``trouble`` it is away; ``bad_password``: it refuses us.

    ``refusal`` and ``warnings`` are what the service itself would say at start. ``own``: no Redis
    is named, so `run` starts one, if ``startable``. ``promise`` is how writes are kept.
    """

    location: str
    is_embedded: bool
    can_start: bool = True
    connection_error: str = ""
    bad_password: bool = False
    startup_error: str = ""
    warnings: tuple[str, ...] = ()
    guarantee: str = ""
    durability: str = "fsync"
    info: Mapping[str, str] = {}
    clock_ahead_s: float | None = None


def check_redis(facts: RedisFacts) -> Iterator[Finding]:
    """Judge Redis; once it is away there is nothing more to say."""
    if facts.connection_error:
        yield _check_unreachable_redis(facts)
        return
    yield ok("redis", f"answers at {facts.location}, {_format_version(facts.info)}")
    if facts.startup_error:
        found, fix = split_fix(facts.startup_error)
        yield fail("redis durability", found, fix)
    elif facts.durability == "memory":
        yield warn(
            "redis durability",
            "nothing is waited for: a crash of Redis loses webhooks that were accepted",
            "say ENRICHER_DURABILITY=fsync",
        )
    else:
        yield ok("redis durability", f"{facts.durability}: {facts.guarantee}")
    for warning in facts.warnings:
        found, fix = split_fix(warning)
        yield warn("redis fitness", found, fix)
    yield from _check_disk(facts.info)
    yield _check_memory(facts.info)
    yield check_clock(
        "redis clock",
        facts.clock_ahead_s,
        clock_name="Redis's clock",
        tolerance_s=_REDIS_CLOCK_TOLERANCE_S,
    )


def _check_unreachable_redis(facts: RedisFacts) -> Finding:
    if facts.bad_password:
        fix = "mend user and password in ENRICHER_REDIS_URL"
        return fail("redis", f"{facts.location} does not let us in: {facts.connection_error}", fix)
    if not facts.is_embedded:
        fix = "start it, or mend ENRICHER_REDIS_URL; until then webhooks are answered with 503"
        return fail("redis", f"{facts.location} is away: {facts.connection_error}", fix)
    if facts.can_start:
        fix = "start `run`, or name yours by ENRICHER_REDIS_URL"
        return warn("redis", f"our own does not run ({facts.location})", fix)
    fix = "pip install 'deployment-enricher[embedded]', or name yours by ENRICHER_REDIS_URL"
    return fail("redis", "none is named, and there is no server to start", fix)


def _format_version(info: Mapping[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else "of unknown version"


def _check_disk(info: Mapping[str, str]) -> Iterator[Finding]:
    """Judge whether the last writes to disk went well, as far as Redis tells."""
    error_texts = {
        "aof_last_write_status": "the last write to the append-only file failed",
        "aof_last_bgrewrite_status": "the last rewrite of the append-only file failed",
        "rdb_last_bgsave_status": "the last snapshot failed",
    }
    errors = [text for name, text in error_texts.items() if info.get(name, "ok") != "ok"]
    if errors:
        yield fail("redis disk", "; ".join(errors), "see Redis's log; is its disk full?")
    elif "aof_enabled" in info:
        persistence = "an append-only file" if info["aof_enabled"] == "1" else "snapshots at most"
        yield ok("redis disk", f"writes {persistence}, without errors")


def _check_memory(info: Mapping[str, str]) -> Finding:
    used_bytes, max_bytes = (
        _parse_info_number(info, name) for name in ("used_memory", "maxmemory")
    )
    if used_bytes is None:
        return warn("redis memory", "Redis does not tell", "allow INFO in the ACL of our user")
    if not max_bytes:
        return ok("redis memory", f"{_format_size(used_bytes)} used, no maxmemory")
    found = f"{_format_size(used_bytes)} of {_format_size(max_bytes)} used"
    if used_bytes < max_bytes * _MEMORY_WARN_SHARE:
        return ok("redis memory", found)
    fix = "raise maxmemory, or lower ENRICHER_STREAM_RETENTION; when full, webhooks get 503"
    return (fail if used_bytes >= max_bytes * _MEMORY_FAIL_SHARE else warn)(
        "redis memory", found, fix
    )


def _parse_info_number(info: Mapping[str, str], name: str) -> int | None:
    text = info.get(name, "")
    return int(text) if text.isdecimal() else None


def _format_size(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 else f"{size / 1024**2:.1f} MiB"
