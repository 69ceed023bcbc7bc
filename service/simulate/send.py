"""One webhook, signed as Standard Webhooks, sent to any receiver."""

from collections.abc import Mapping

import aiohttp
import msgspec
from msgspec import Struct

from service.accept.signatures import sign_standard_webhook

_TIMEOUT_S = 15.0


class SendResult(Struct, frozen=True):
    """The status and the body of the receiver's response."""

    status: int
    body: str


async def send_event(
    session: aiohttp.ClientSession,
    url: str,
    event: Mapping[str, object],
    *,
    secret: str,
    delivery: str,
    timestamp_s: int,
) -> SendResult:
    """Sign and post one event.

    Raises aiohttp.ClientError or TimeoutError when the receiver does not respond.
    """
    body = msgspec.json.encode(event)
    headers = sign_standard_webhook(secret, delivery=delivery, timestamp_s=timestamp_s, body=body)
    async with session.post(
        url,
        data=body,
        headers={**headers, "Content-Type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        allow_redirects=False,
    ) as response:
        return SendResult(status=response.status, body=await response.text())
