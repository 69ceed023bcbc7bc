"""Managed Redis services: how each is recognised, and which durability fits it.

Pure. The facts are those of the vendors' documents in November 2026. A service is recognised by
the name of its host, or by a field that only it has in INFO. Memorystore, whose instances have IP
addresses, is not recognised.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

Durability = Literal["fsync", "replica", "fsync+replica", "server", "memory"]

_LOSS = "or memory to accept the loss"


class ManagedService(Struct, frozen=True, kw_only=True):
    """One service. ``promise`` is what a write that it acknowledged survives.

    ``fits`` are the values of ENRICHER_DURABILITY that may keep webhooks there, and ``advice``
    says when to set which. ``host`` is a regular expression, ``info_field`` a field of INFO.
    """

    name: str
    promise: str
    fits: tuple[Durability, ...]
    advice: str
    host: str = ""
    info_field: str = ""


# The first match counts: a name that contains another one stands before it.
SERVICES = (
    ManagedService(
        name="Amazon MemoryDB",
        host=r"\.memorydb\.[^.]+\.amazonaws\.com(\.cn)?$",
        promise="an acknowledged write is in a transaction log in several zones",
        fits=("server",),
        advice="Set ENRICHER_DURABILITY=server",
    ),
    ManagedService(
        name="Amazon ElastiCache Serverless",
        host=r"\.serverless\.[^.]+\.cache\.amazonaws\.com(\.cn)?$",
        promise="an acknowledged write is in memory only; durability needs a node-based cluster",
        fits=("replica",),
        advice=f"Set ENRICHER_DURABILITY=replica if WAIT is allowed, {_LOSS}",
    ),
    ManagedService(
        name="Amazon ElastiCache",
        host=r"\.cache\.amazonaws\.com(\.cn)?$",
        promise=(
            "with synchronous writes, an acknowledged write is in a transaction log in two zones; "
            "without them it is in memory only"
        ),
        fits=("server", "replica"),
        advice=(
            "Set ENRICHER_DURABILITY=server if the cluster uses synchronous writes "
            f"(Valkey 9.0, durability sync), replica if it has replicas, {_LOSS}"
        ),
    ),
    ManagedService(
        name="Azure Managed Redis",
        host=r"\.redis\.azure\.net$|\.redisenterprise\.cache\.azure\.net$",
        promise="with AOF persistence, WAITAOF confirms that a write is on disk",
        fits=("fsync", "replica", "fsync+replica"),
        advice=(
            "Turn on AOF persistence and set ENRICHER_DURABILITY=fsync, or set replica with high "
            f"availability, {_LOSS}"
        ),
    ),
    ManagedService(
        name="Redis Cloud",
        host=r"\.redis-cloud\.com$|\.redislabs\.com$",
        promise="with AOF persistence, WAITAOF confirms that a write is on disk",
        fits=("fsync", "replica", "fsync+replica"),
        advice=(
            "Turn on data persistence by append-only file and set ENRICHER_DURABILITY=fsync, or "
            f"set replica where the plan has WAIT, {_LOSS}"
        ),
    ),
    ManagedService(
        name="Upstash",
        host=r"\.upstash\.io$",
        info_field="upstash_version",
        promise="WAITAOF confirms that a write is on disk",
        fits=("fsync", "replica", "fsync+replica"),
        advice=f"Set ENRICHER_DURABILITY=fsync, {_LOSS}",
    ),
    ManagedService(
        name="OCI Cache",
        host=r"\.oci\.oraclecloud\.com$",
        promise="WAIT confirms that a replica has a write; sharded clusters run no scripts",
        fits=("replica",),
        advice=(
            f"Use a non-sharded cluster with replicas and set ENRICHER_DURABILITY=replica, {_LOSS}"
        ),
    ),
    ManagedService(
        name="Aiven",
        host=r"\.aivencloud\.com$",
        promise="the disk has snapshots only; WAIT confirms that a replica has a write",
        fits=("replica",),
        advice=f"Use a plan with a replica and set ENRICHER_DURABILITY=replica, {_LOSS}",
    ),
    ManagedService(
        name="Alibaba Cloud Tair",
        host=r"\.rds\.aliyuncs\.com$|\.kvstore\.aliyuncs\.com$",
        promise="the append-only file is synced once a second",
        fits=("fsync", "replica", "fsync+replica"),
        advice=(
            "Set ENRICHER_DURABILITY=fsync where the version has WAITAOF, replica where it has "
            f"WAIT, {_LOSS}"
        ),
    ),
    ManagedService(
        name="Dragonfly",
        host=r"\.dragonflydb\.cloud$",
        info_field="dragonfly_version",
        promise="the disk has snapshots only; WAIT confirms that a replica has a write",
        fits=("replica",),
        advice=f"Add a replica and set ENRICHER_DURABILITY=replica, {_LOSS}",
    ),
    ManagedService(
        name="Redis Software",
        info_field="rlec_version",
        promise="with AOF persistence, WAITAOF confirms that a write is on disk",
        fits=("fsync", "replica", "fsync+replica"),
        advice=(
            "Turn on persistence by append-only file and set ENRICHER_DURABILITY=fsync, or set "
            f"replica with replication, {_LOSS}"
        ),
    ),
)


def find_service(hosts: Iterable[str], info: Mapping[str, str]) -> ManagedService | None:
    """Return the service that a host name or a field of INFO names; None for any other server."""
    names = [host.lower().rstrip(".") for host in hosts]
    for service in SERVICES:
        if service.host and any(re.search(service.host, name) for name in names):
            return service
    return next(
        (service for service in SERVICES if service.info_field and service.info_field in info), None
    )


def check_service(service: ManagedService | None, durability: Durability) -> str:
    """Return a warning if a service does not make writes durable by itself, as `server` says."""
    if service is None or durability != "server" or "server" in service.fits:
        return ""
    return (
        f"ENRICHER_DURABILITY is server, but on {service.name} {service.promise}. {service.advice}"
    )
