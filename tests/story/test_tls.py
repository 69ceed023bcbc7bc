"""Is Redis spoken to over TLS, with an authority of one's own, and never with a stranger?"""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog
from msgspec.structs import replace

from service.settings import Secret
from service.store import Unavailable
from service.store.connect import open_client
from service.store.group import GroupCommit
from tests.conftest import Eventually
from tests.story.stage import Story, name_deployment
from tests.story.tls import Authority, put_tls_before
from tests.wire import Wire


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Found an authority that no system knows."""
    return Authority(tmp_path, "ours")


@pytest.fixture
async def front(authority: Authority, redis_url: str) -> AsyncIterator[Wire]:
    """Put TLS before the session's Redis."""
    socket = Path(redis_url.removeprefix("unix://"))
    async with put_tls_before(socket, authority.certify("127.0.0.1")) as listening:
        yield listening


async def reach(url: str) -> None:
    """Open a connection as door and worker do; raises what they would meet."""
    async with open_client(url) as client:
        group = GroupCommit(
            client, durability="fsync", clock=time.monotonic, log=structlog.get_logger()
        )
        try:
            await group.connect()
        finally:
            await group.aclose()


async def test_a_webhook_becomes_a_record_over_tls(
    story: Story, front: Wire, authority: Authority, eventually: Eventually
) -> None:
    """The authority is named in the URL; door, worker and bell all go by it."""
    url = f"rediss://{front.place}/0?ssl_ca_certs={quote(str(authority.file))}"
    story.settings = replace(story.settings, redis_url=Secret(url))
    await story.open()
    status, _ = await story.post({"deploymentId": name_deployment(), "eventType": "finished"})
    assert status == 202

    async def is_published() -> bool:
        return len(await story.records()) == 1

    await eventually(is_published)
    assert not story.facts("redis_lost")


async def test_an_authority_that_nobody_named_vouches_for_nobody(front: Wire) -> None:
    """The system's authorities do not know it; the reason says so."""
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await reach(f"rediss://{front.place}")


async def test_a_certificate_for_another_address_is_refused(
    authority: Authority, redis_url: str
) -> None:
    """Signed by the right authority, but for somebody else."""
    socket = Path(redis_url.removeprefix("unix://"))
    async with put_tls_before(socket, authority.certify("127.0.0.2")) as other:
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await reach(f"rediss://{other.place}?ssl_ca_certs={authority.file}")


async def test_plain_words_do_not_get_in(front: Wire) -> None:
    """redis:// where TLS is spoken."""
    with pytest.raises(Unavailable):
        await reach(f"redis://{front.place}")


async def test_a_server_may_ask_for_our_certificate(authority: Authority, redis_url: str) -> None:
    """It is named in the URL too; without it there is no connection."""
    socket, own = Path(redis_url.removeprefix("unix://")), authority.certify("127.0.0.1")
    async with put_tls_before(socket, own, clients=authority) as strict:
        url = f"rediss://{strict.place}?ssl_ca_certs={authority.file}"
        with pytest.raises(Unavailable):
            await reach(url)
        await reach(f"{url}&ssl_certfile={own.certificate}&ssl_keyfile={own.key}")
