"""Does the example show what went out, and nothing that a pull request's title smuggles in?"""

from collections.abc import Awaitable, Callable

from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis

from deploy.examples.release_notes import build_app
from service.store.keys import Keys
from tests.publish.sample_records import append_records

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


async def test_what_went_out_is_a_page(
    redis: Redis, redis_url: str, keys: Keys, eventually: Eventually
) -> None:
    """Notes by deployment, lead time by application; all escaped, no script allowed."""
    pulls = {"items": [{"externalId": "7", "title": "<script>x</script>", "author": "jo"}]}
    await append_records(redis, keys.enriched, 1, leadTime=7_200_000, pullRequests=pulls)
    await append_records(
        redis, keys.enriched, 1, revision=2, leadTime=7_200_000, pullRequests=pulls
    )
    app = build_app(redis_url, namespace=keys.namespace)
    async with TestClient(TestServer(app)) as client:

        async def is_read() -> bool:
            return "revision 2" in await (await client.get("/")).text()

        await eventually(is_read)
        answer = await client.get("/")
        page = await answer.text()
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert (await client.get("/style.css")).content_type == "text/css"
    assert "#7 &lt;script&gt;x&lt;/script&gt; (jo)" in page
    assert "<script" not in page
    assert "<td>shop</td><td>1</td><td>1.0</td><td>2.0 h</td>" in page
    assert "revision 1<" not in page
