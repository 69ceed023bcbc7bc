"""A stand-in for redis-cli: one command, its reply printed as redis-cli prints it to a pipe.

python -m tests.redis_cli URL COMMAND [ARGUMENT ...]
"""

import sys
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError


def main() -> int:
    """Send the command of the arguments; return the exit status of redis-cli."""
    url, *command = sys.argv[1:]
    with Redis.from_url(url, protocol=2) as client:
        client.response_callbacks.clear()
        try:
            reply = client.execute_command(*command)
        except ResponseError as error:
            sys.stdout.write(f"{error}\n")
            return 1
    sys.stdout.write("".join(f"{line}\n" for line in flatten(reply)))
    return 0


def flatten(reply: Any) -> Iterator[str]:
    """Yield the parts of a reply, however deep they are nested."""
    if isinstance(reply, list):
        for part in reply:
            yield from flatten(part)
    elif isinstance(reply, bytes):
        yield reply.decode("utf-8", "replace")
    else:
        yield "" if reply is None else str(reply)


if __name__ == "__main__":
    sys.exit(main())
