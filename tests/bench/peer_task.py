"""The task that every contestant except the service does: GET, decode, XADD."""

import os
import time
from collections.abc import Mapping

import aiohttp
import msgspec
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from msgspec import Raw, Struct
from redis.asyncio import Redis

from service.enrich.models import Deployment
from tests.bench.response_bodies import deployment_id_for

CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "32"))
REDIS_URL = os.environ.get("BENCH_REDIS", "")
UPSTREAM = os.environ.get("BENCH_UPSTREAM", "")
STREAM = "out"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DEDUP_TTL_S = 259_200
"""The TTL of a delivery mark."""
GET_COUNT_KEY = "got"
"""The key that counts fetched deployments when nothing is appended."""

_HEADERS = {
    "Authorization": "api-token",
    "LD-API-Version": "beta",
    "Accept": "application/json",
    "User-Agent": "bench",
}


class PeerRecord(Struct, frozen=True):
    """The appended data: the deployment as received, and the time."""

    enriched_at: int
    deployment: Raw


def deployment_url(number: int) -> str:
    """Return the URL of a deployment with all expandable fields."""
    return (
        f"{UPSTREAM}/api/v2/engineering-insights/deployments/{deployment_id_for(number)}"
        "?expand=pullRequests,flagReferences"
    )


def build_entry_fields(body: bytes) -> Mapping[str, str | bytes]:
    """Decode a response and return the fields of its entry, with the names of the service."""
    deployment = msgspec.json.decode(body, type=Deployment, strict=False)
    record = PeerRecord(enriched_at=time.time_ns() // 1_000_000, deployment=Raw(body))
    return {
        "id": f"{deployment.id}:1",
        "revision": "1",
        "specversion": "1.0",
        "source": "/bench",
        "type": "deployment.enriched.v1",
        "subject": deployment.id,
        "datacontenttype": "application/json",
        "environmentkey": deployment.environment_key or "",
        "applicationkey": deployment.application_key or "",
        "data": msgspec.json.encode(record),
    }


class PeerTask:
    """The task with its two open clients."""

    def __init__(self) -> None:
        self.redis = Redis.from_url(REDIS_URL)
        self.session = ClientSession(
            connector=TCPConnector(limit=CONCURRENCY),
            timeout=ClientTimeout(total=30),
            cookie_jar=DummyCookieJar(),
            headers=_HEADERS,
        )

    async def get(self, number: int) -> bytes:
        """Fetch one deployment."""
        async with self.session.get(deployment_url(number)) as response:
            if response.status != 200:
                raise aiohttp.ClientError(response.status)
            return await response.read()

    async def process(self, number: int) -> None:
        """Fetch one deployment, decode it and append it."""
        body = await self.get(number)
        await self.redis.xadd(STREAM, build_entry_fields(body))  # type: ignore[arg-type] # the dict type is invariant

    async def aclose(self) -> None:
        """Close both clients."""
        await self.session.close()
        await self.redis.aclose()
