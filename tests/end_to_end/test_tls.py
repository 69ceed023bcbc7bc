"""Tests of Redis over TLS with a private certificate authority."""

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
from tests.end_to_end.harness import ServiceHarness
from tests.end_to_end.tls_server import CertificateAuthority, tls_proxy
from tests.factories import deployment_id
from tests.tcp_proxy import ForwardingProxy


@pytest.fixture
def certificate_authority(tmp_path: Path) -> CertificateAuthority:
    """Create a certificate authority that the system does not trust."""
    return CertificateAuthority(tmp_path, "test authority")


@pytest.fixture
async def tls_front(
    certificate_authority: CertificateAuthority, redis_url: str
) -> AsyncIterator[ForwardingProxy]:
    """Start a TLS proxy in front of the Redis of the session."""
    socket = Path(redis_url.removeprefix("unix://"))
    async with tls_proxy(socket, certificate_authority.issue("127.0.0.1")) as proxy:
        yield proxy


async def connect(url: str) -> None:
    """Open a connection as receiver and worker do; raise their error."""
    async with open_client(url) as client:
        group = GroupCommit(
            client, durability="fsync", clock=time.monotonic, log=structlog.get_logger()
        )
        try:
            await group.connect()
        finally:
            await group.aclose()


async def test_webhook_over_tls_becomes_a_record(
    service: ServiceHarness,
    tls_front: ForwardingProxy,
    certificate_authority: CertificateAuthority,
    eventually: Eventually,
) -> None:
    """The URL names the authority, and receiver, worker and wakeup use it."""
    url = f"rediss://{tls_front.address}/0?ssl_ca_certs={quote(str(certificate_authority.file))}"
    service.settings = replace(service.settings, redis_url=Secret(url))
    await service.open()
    status, _ = await service.post({"deploymentId": deployment_id(), "eventType": "finished"})
    assert status == 202

    async def is_published() -> bool:
        return len(await service.records()) == 1

    await eventually(is_published)
    assert not service.log_events("redis_disconnected")


async def test_unknown_authority_is_refused(
    tls_front: ForwardingProxy,
) -> None:
    """The authorities of the system do not know it, and the error says so."""
    with pytest.raises(RedisUnavailable, match="certificate verify failed"):
        await connect(f"rediss://{tls_front.address}")


async def test_certificate_for_another_address_is_refused(
    certificate_authority: CertificateAuthority, redis_url: str
) -> None:
    """The known authority signed it, but for another address."""
    socket = Path(redis_url.removeprefix("unix://"))
    async with tls_proxy(socket, certificate_authority.issue("127.0.0.2")) as other:
        with pytest.raises(RedisUnavailable, match="certificate verify failed"):
            await connect(f"rediss://{other.address}?ssl_ca_certs={certificate_authority.file}")


async def test_plain_connection_to_tls_port_is_refused(tls_front: ForwardingProxy) -> None:
    """The URL is redis:// and the server expects TLS."""
    with pytest.raises(RedisUnavailable):
        await connect(f"redis://{tls_front.address}")


async def test_client_certificate_of_the_url_is_used(
    certificate_authority: CertificateAuthority, redis_url: str
) -> None:
    """The server requires a client certificate and refuses a connection without one."""
    socket, own = Path(redis_url.removeprefix("unix://")), certificate_authority.issue("127.0.0.1")
    async with tls_proxy(socket, own, client_authority=certificate_authority) as strict:
        url = f"rediss://{strict.address}?ssl_ca_certs={certificate_authority.file}"
        with pytest.raises(RedisUnavailable):
            await connect(url)
        await connect(f"{url}&ssl_certfile={own.certificate}&ssl_keyfile={own.key}")
