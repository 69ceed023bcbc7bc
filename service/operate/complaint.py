"""What does a person read when a command cannot go on? One sentence, and no traceback."""

import errno
import os

import aiohttp
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from service.store import RedisMisconfigured, RedisUnavailable
from service.store.connect import is_bad_password
from service.store.embedded import EmbeddedServerError

EXPECTED_ERRORS = (
    *(RedisMisconfigured, RedisUnavailable, EmbeddedServerError),
    *(RedisError, aiohttp.ClientError, OSError),  # TimeoutError is an OSError
)
"""What ends a command because something it needs is away or refuses."""


def explain_error(error: Exception) -> str:
    """Say what is away or refuses, and which setting names it."""
    match error:
        case RedisConnectionError() if not is_bad_password(error):
            return f"Redis is away (ENRICHER_REDIS_URL, or that of a `run` going on): {error}"
        case RedisError():
            return f"Redis: {error}"
        case aiohttp.InvalidURL():
            return f"this is no URL to post to: {error}"
        case aiohttp.ClientError():
            return f"nobody answers: {error}"
        case OSError():
            return _explain_os_error(error)
        case _:
            return str(error)


def _explain_os_error(error: OSError) -> str:
    """Say what of this machine cannot be used."""
    if isinstance(error, TimeoutError):
        return "nobody answered in time"
    if error.errno in {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES} and not error.filename:
        fix = "choose another by ENRICHER_HOST and ENRICHER_PORT (simulate: --host and --port)"
        return f"{error.strerror}; {fix}"
    if error.filename is not None:
        path = os.fsdecode(error.filename)
        return f"{path}: {error.strerror} (ENRICHER_DATA_DIR says where our server's data is kept)"
    return str(error)
