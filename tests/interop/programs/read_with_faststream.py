"""Read the stream with FastStream in a consumer group; print each record, with the id of its entry.

Arguments: URL of Redis, key of the stream, number of entries.
"""

import asyncio
import json
import sys
from typing import Any

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.annotations import RedisStreamMessage

url, stream, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
broker = RedisBroker(url, logger=None)
app = FastStream(broker, logger=None)
seen: list[str] = []


async def handle(record: dict[str, Any], message: RedisStreamMessage) -> None:
    """Print a record; FastStream acknowledges its entry when this returns."""
    entry = message.raw_message["data"]
    seen.append(entry[b"id"].decode())
    print(json.dumps({"id": seen[-1], "data": record}), flush=True)
    if len(seen) == count:
        app.exit()


broker.subscriber(stream=StreamSub(stream, group="faststream", consumer="one"))(handle)
asyncio.run(app.run())
