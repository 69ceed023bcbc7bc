"""Tests of managed services: how each is recognised, and what a refusal advises there."""

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.store import RedisMisconfigured, RedisUnavailable
from service.store.connect import open_client, open_connection
from service.store.durability import choose_barrier
from service.store.embedded import EmbeddedServer
from service.store.server_checks import check_server_info
from service.store.services import SERVICES, Durability, ManagedService, check_service, find_service
from tests.store.conftest import OpenGroup, execute
from tests.store.restricted_proxy import RestrictedProxy
from tests.store.service_profiles import lack
from tests.tcp_proxy import connect_to_socket

BY_NAME = {service.name: service for service in SERVICES}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("clustercfg.shop.abc123.memorydb.eu-west-1.amazonaws.com", "Amazon MemoryDB"),
        ("shop.abc123.memorydb.cn-north-1.amazonaws.com.cn", "Amazon MemoryDB"),
        ("shop.abc123.ng.0001.euw1.cache.amazonaws.com", "Amazon ElastiCache"),
        ("shop-abc123.serverless.euw1.cache.amazonaws.com", "Amazon ElastiCache Serverless"),
        ("shop.westeurope.redis.azure.net", "Azure Managed Redis"),
        ("redis-12345.c1.eu-west-1-2.ec2.redns.redis-cloud.com", "Redis Cloud"),
        ("eu1-cat-12345.upstash.io", "Upstash"),
        ("abc-p.redis.eu-frankfurt-1.oci.oraclecloud.com", "OCI Cache"),
        ("shop-team.k.aivencloud.com", "Aiven"),
        ("r-bp1abc.redis.rds.aliyuncs.com", "Alibaba Cloud Tair"),
        ("abc123.dragonflydb.cloud", "Dragonfly"),
        ("SHOP.ABC123.MEMORYDB.EU-WEST-1.AMAZONAWS.COM.", "Amazon MemoryDB"),
    ],
)
def test_find_service_by_host_returns_the_service(host: str, name: str) -> None:
    """Each vendor has a domain of its own; upper case and a final dot do not matter."""
    assert find_service(["10.0.0.1", host], {}) == BY_NAME[name]


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("dragonfly_version", "Dragonfly"),
        ("upstash_version", "Upstash"),
        ("rlec_version", "Redis Software"),
    ],
)
def test_find_service_by_a_field_of_info_returns_the_service(field: str, name: str) -> None:
    """An address does not name a service that runs on machines of one's own."""
    assert find_service(["10.0.0.1"], {"": "", field: "1"}) == BY_NAME[name]


@pytest.mark.parametrize(
    "host", ["", "redis", "localhost", "memorydb.example.com", "cache.amazonaws.com.example.org"]
)
def test_find_service_of_any_other_server_returns_none(host: str) -> None:
    """A plain Redis or Valkey has no vendor."""
    assert find_service([host], {"": "", "redis_version": "8.0.0"}) is None


def test_check_service_warns_of_a_service_that_is_not_durable_by_itself() -> None:
    """The user may know better, so `server` is not refused on a vendor's documents alone."""
    assert "Add a replica" in check_service(BY_NAME["Dragonfly"], "server")
    assert check_service(BY_NAME["Dragonfly"], "replica") == ""
    assert check_service(BY_NAME["Amazon MemoryDB"], "server") == ""
    assert check_service(None, "server") == ""


async def deny_everything(*command: object) -> object:
    """Play a server that denies every command."""
    raise ResponseError(f"unknown command '{command[0]}'")


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
@pytest.mark.parametrize("durability", ["fsync", "replica"])
async def test_refusal_on_a_known_service_ends_with_its_advice(
    service: ManagedService, durability: Durability
) -> None:
    """The user reads which ENRICHER_DURABILITY fits the service."""
    with pytest.raises(RedisMisconfigured) as refusal:
        await choose_barrier(deny_everything, durability, service)
    assert str(refusal.value).endswith(f"). {service.advice}.")
    assert await choose_barrier(deny_everything, "server") is None


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"appendonly": "no"}, r"does not write to disk.*ENRICHER_DURABILITY=server does not hold"),
        ({"appendfsync": "everysec"}, r"before a write is on disk.*ENRICHER_DURABILITY=fsync"),
        ({}, ""),
    ],
)
async def test_server_durability_is_refused_where_the_settings_say_otherwise(
    direct_client: Redis, settings: dict[str, str], refusal: str
) -> None:
    """A Redis of one's own shows whether its acknowledged writes are on disk."""
    for name, value in settings.items():
        await direct_client.config_set(name, value)
    if refusal:
        with pytest.raises(RedisMisconfigured, match=refusal):
            await choose_barrier(direct_client.execute_command, "server")
    else:
        assert await choose_barrier(direct_client.execute_command, "server") is None


@pytest.mark.parametrize("durability", ["replica", "fsync+replica"])
async def test_server_that_is_a_replica_now_is_unavailable_not_refused(
    server: EmbeddedServer, direct_client: Redis, durability: Durability
) -> None:
    """After a failover the master is another one; the error of WAIT will pass."""
    await execute(direct_client, "REPLICAOF", "127.0.0.1", "1")
    async with open_client(server.url) as client:
        with pytest.raises(RedisUnavailable, match="replica"):
            await open_connection(client, durability)


async def test_url_with_a_database_that_the_server_lacks_is_refused_with_the_fix(
    server: EmbeddedServer, open_group: OpenGroup
) -> None:
    """Services without SELECT have database 0 only."""
    async with (
        RestrictedProxy(connect_to_socket(server.socket), lack("SELECT")) as proxy,
        open_group(f"redis://{proxy.address}/3") as group_commit,
    ):
        with pytest.raises(RedisMisconfigured, match=r"database 3.*Remove it from the URL"):
            await group_commit.connect()


def test_check_server_info_names_no_fix_that_the_service_lacks() -> None:
    """Without WAIT, `fsync+replica` would be refused."""
    (warning,) = check_server_info({"connected_slaves": "1"}, "fsync", wait_error="unknown command")
    assert "fsync+replica" not in warning
    assert check_server_info({}, "replica") == []
