"""Is Redis spoken to over TLS, with an authority of one's own, and never with a stranger?"""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog
from msgspec.structs import replace

from service.settings import Secret
from service.store import RedisUnavailable
from service.store.connect import open_client
from service.store.group_commit import GroupCommit
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness, deployment_id
from tests.end_to_end.tls_server import CertificateAuthority, tls_proxy
from tests.tcp_proxy import ForwardingProxy


@pytest.fixture
def certificate_authority(tmp_path: Path) -> CertificateAuthority:
    """Found an authority that no system knows."""
    return CertificateAuthority(tmp_path, "ours")


@pytest.fixture
async def tls_front(
    certificate_authority: CertificateAuthority, redis_url: str
) -> AsyncIterator[ForwardingProxy]:
    """Put TLS before the session's Redis."""
    socket = Path(redis_url.removeprefix("unix://"))
    async with tls_proxy(socket, certificate_authority.issue("127.0.0.1")) as listening:
        yield listening


async def connect(url: str) -> None:
    """Open a connection as receiver and worker do; raises what they would meet."""
    async with open_client(url) as client:
        group = GroupCommit(
            client, durability="fsync", clock=time.monotonic, log=structlog.get_logger()
        )
        try:
            await group.connect()
        finally:
            await group.aclose()


async def test_a_webhook_becomes_a_record_over_tls(
    story: ServiceHarness,
    tls_front: ForwardingProxy,
    certificate_authority: CertificateAuthority,
    eventually: Eventually,
) -> None:
    """The authority is named in the URL; receiver, worker and bell all go by it."""
    url = f"rediss://{tls_front.address}/0?ssl_ca_certs={quote(str(certificate_authority.file))}"
    story.settings = replace(story.settings, redis_url=Secret(url))
    await story.open()
    status, _ = await story.post({"deploymentId": deployment_id(), "eventType": "finished"})
    assert status == 202

    async def is_published() -> bool:
        return len(await story.records()) == 1

    await eventually(is_published)
    assert not story.log_events("redis_disconnected")


async def test_an_authority_that_nobody_named_vouches_for_nobody(
    tls_front: ForwardingProxy,
) -> None:
    """The system's authorities do not know it; the reason says so."""
    with pytest.raises(RedisUnavailable, match="certificate verify failed"):
        await connect(f"rediss://{tls_front.address}")


async def test_a_certificate_for_another_address_is_refused(
    certificate_authority: CertificateAuthority, redis_url: str
) -> None:
    """Signed by the right authority, but for somebody else."""
    socket = Path(redis_url.removeprefix("unix://"))
    async with tls_proxy(socket, certificate_authority.issue("127.0.0.2")) as other:
        with pytest.raises(RedisUnavailable, match="certificate verify failed"):
            await connect(f"rediss://{other.address}?ssl_ca_certs={certificate_authority.file}")


async def test_plain_words_do_not_get_in(tls_front: ForwardingProxy) -> None:
    """redis:// where TLS is spoken."""
    with pytest.raises(RedisUnavailable):
        await connect(f"redis://{tls_front.address}")


async def test_a_server_may_ask_for_our_certificate(
    certificate_authority: CertificateAuthority, redis_url: str
) -> None:
    """It is named in the URL too; without it there is no connection."""
    socket, own = Path(redis_url.removeprefix("unix://")), certificate_authority.issue("127.0.0.1")
    async with tls_proxy(socket, own, client_authority=certificate_authority) as strict:
        url = f"rediss://{strict.address}?ssl_ca_certs={certificate_authority.file}"
        with pytest.raises(RedisUnavailable):
            await connect(url)
        await connect(f"{url}&ssl_certfile={own.certificate}&ssl_keyfile={own.key}")
