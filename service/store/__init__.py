"""How we speak with Redis: one connection, one script per act, one round trip per group."""


class RedisUnavailable(Exception):
    """Redis could not be reached, or could not promise what was asked, in the time given."""


class RedisMisconfigured(Exception):
    """The server cannot give what the settings ask of it; the message names the fix."""
