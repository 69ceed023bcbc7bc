"""Access to Redis: one connection, one Lua script per operation, one round trip per batch."""


class RedisUnavailable(Exception):
    """Redis did not answer in time, or did not confirm in time that a write is durable."""


class RedisRefused(RedisUnavailable):
    """Redis refused a write for now, and executed nothing of it: its memory or disk is full."""


class RedisMisconfigured(Exception):
    """The server cannot meet the settings; the message names the fix."""
