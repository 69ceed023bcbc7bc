"""A load generator: it signs all webhooks first and then only sends and reads.

    python -m tests.bench.webhook_load URL FIRST COUNT CONNECTIONS

Each kept-alive connection sends its next webhook after the response to the last one. Any status
except 202 ends the program with an error.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from service.accept.signatures import sign_standard_webhook
from tests.bench.peer_task import SECRET
from tests.bench.response_bodies import (
    application_for,
    deployment_id_for,
    ended_at_for,
    version_for,
)


def encode_request(url: str, number: int) -> bytes:
    """Return the bytes of one signed HTTP request."""
    address = urlsplit(url)
    body = msgspec.json.encode(
        {
            "projectKey": "default",
            "environmentKey": "production",
            "applicationKey": application_for(number),
            "version": version_for(number),
            "eventType": "finished",
            "eventTime": ended_at_for(number),
            "eventMetadata": {"pipeline": "main", "build": number},
            "deploymentId": deployment_id_for(number),
        }
    )
    headers = sign_standard_webhook(
        SECRET, delivery=f"delivery-{number}", timestamp_s=int(time.time()), body=body
    )
    lines = [
        f"POST {address.path} HTTP/1.1",
        f"Host: {address.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "User-Agent: bench",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def send_all(url: str, requests: Iterator[bytes]) -> None:
    """Send the remaining requests one after another on one connection."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    for request in requests:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status, length = parse_response_head(head)
        await reader.readexactly(length)
        if status != b"202":
            raise SystemExit(f"not accepted: {head!r}")
    writer.close()


def parse_response_head(head: bytes) -> tuple[bytes, int]:
    """Return the status and the content length of a response."""
    lines = head.lower().split(b"\r\n")
    lengths = [line[16:] for line in lines if line.startswith(b"content-length: ")]
    return lines[0].split(b" ")[1], int(lengths[0]) if lengths else 0


async def send_webhooks(url: str, numbers: range, connections: int) -> None:
    """Send all webhooks over the connections."""
    requests = iter([encode_request(url, number) for number in numbers])
    await asyncio.gather(*(send_all(url, requests) for _ in range(connections)))
    print("all accepted", flush=True)


if __name__ == "__main__":
    first, count, connections_count = map(int, sys.argv[2:5])
    asyncio.run(send_webhooks(sys.argv[1], range(first, first + count), connections_count))
