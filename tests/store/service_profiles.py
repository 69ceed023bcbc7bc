"""Twelve managed services, as their documents describe them: what they deny, lack or hide."""

from collections.abc import Mapping

from msgspec import Struct

from service.store.services import Durability

NO_PERMISSION = b"-NOPERM User default has no permissions to run the '%s' command\r\n"
UNKNOWN = b"-ERR unknown command '%s'\r\n"
EMPTY = b"*0\r\n"
ONE_REPLICA = b":1\r\n"
BAD_SCRIPT = (
    b"-ERR bad lua script for redis cluster, all the keys that the script uses should be passed "
    b"using the KEYS array, and KEYS should not be in expression\r\n"
)


class ServiceProfile(Struct, frozen=True, kw_only=True):
    """One service: its replies, ACL rules for the real server, and what each durability gives.

    ``outcomes`` maps a durability to the sentence of the refusal, a regular expression; empty if
    the service starts with it and publishes a webhook.
    """

    name: str
    outcomes: Mapping[Durability, str]
    replies: Mapping[str, bytes] = {}
    acl: str = ""
    info: str = ""
    rejected_script: bytes = b""


def deny(*commands: str) -> dict[str, bytes]:
    """Return replies that deny commands to the user."""
    return {command: NO_PERMISSION % command.lower().encode() for command in commands}


def lack(*commands: str) -> dict[str, bytes]:
    """Return replies of a server that does not know commands."""
    return {command: UNKNOWN % command.encode() for command in commands}


_HIDDEN = (
    r"^Redis cannot confirm that a write is on disk: CONFIG GET fails \(.*config.*\), "
    r"and WAITAOF fails \(.*(waitaof|WAITAOF).*\)\. "
)
_AMBIGUOUS_FIX = (
    r"Set ENRICHER_DURABILITY=server if the service itself makes each acknowledged write durable,"
)
_WITH_WAIT = _AMBIGUOUS_FIX + r" replica to wait for a replica, or memory to accept the loss\.$"
_WITHOUT_WAIT = _AMBIGUOUS_FIX + r" or memory to accept the loss\.$"
_NO_WAIT = r"^Redis cannot confirm that a replica has a write: WAIT fails \(.*\)\. "

PROFILES = (
    ServiceProfile(
        name="elasticache",
        acl="-config -acl",
        replies=deny("WAITAOF") | {"WAIT": ONE_REPLICA},
        outcomes={"server": "", "replica": "", "fsync": _HIDDEN + _WITH_WAIT},
    ),
    ServiceProfile(
        name="elasticache-serverless",
        replies=lack("WAITAOF", "WAIT") | deny("CONFIG", "ACL", "CLIENT"),
        outcomes={"server": "", "fsync": _HIDDEN + _WITHOUT_WAIT, "memory": ""},
    ),
    ServiceProfile(
        name="memorydb",
        acl="-config -acl",
        replies=deny("WAITAOF", "WAIT"),
        outcomes={"server": "", "fsync": _HIDDEN + _WITHOUT_WAIT, "replica": _NO_WAIT},
    ),
    ServiceProfile(
        name="memorystore",
        acl="-config +config|help -client|setinfo -select -wait -waitaof",
        outcomes={"server": "", "fsync": _HIDDEN + _WITHOUT_WAIT},
    ),
    ServiceProfile(
        name="azure-managed-redis",
        replies=lack("SELECT") | {"CONFIG GET": EMPTY, "WAIT": ONE_REPLICA},
        outcomes={"fsync": "", "fsync+replica": "", "replica": ""},
    ),
    ServiceProfile(
        name="redis-software",
        replies=lack("SELECT") | {"CONFIG GET": EMPTY, "WAIT": ONE_REPLICA},
        info="rlec_version:7.22.0-95",
        outcomes={"fsync": "", "replica": ""},
    ),
    ServiceProfile(
        name="redis-cloud",
        replies=lack("SELECT", "WAIT") | {"CONFIG GET": EMPTY},
        info="rlec_version:7.22.0-95",
        outcomes={
            "fsync": "",
            "replica": _NO_WAIT + "Turn on persistence by append-only file and set ENRICHER_DURAB",
        },
    ),
    ServiceProfile(
        name="upstash",
        replies=lack("CONFIG"),
        info="redis_version:6.2.6\r\nupstash_version:1.10.5",
        outcomes={"fsync": "", "server": ""},
    ),
    ServiceProfile(
        name="oci-cache",
        replies=deny("CLUSTER", "CONFIG SET", "ACL") | {"WAIT": ONE_REPLICA},
        outcomes={"replica": ""},
    ),
    ServiceProfile(
        name="oci-cache-sharded",
        replies=deny("CLUSTER", "EVAL", "EVALSHA", "SCRIPT") | {"WAIT": ONE_REPLICA},
        outcomes={
            "replica": (
                r"^Redis does not run Lua scripts, which this service needs: SCRIPT LOAD fails "
                r"\(.*'script'.*\)\. Allow EVALSHA .*non-sharded cluster\)\.$"
            )
        },
    ),
    ServiceProfile(
        name="aiven",
        acl="-config -cluster -command -acl",
        replies={
            "WAITAOF": b"-ERR WAITAOF cannot be used when numlocal is set but appendonly is "
            b"disabled.\r\n",
            "WAIT": ONE_REPLICA,
        },
        outcomes={
            "replica": "",
            "fsync": r"^Redis does not write to disk \(WAITAOF: .*appendonly is disabled\), so an",
        },
    ),
    ServiceProfile(
        name="alibaba-tair-cluster",
        rejected_script=b"unpack(keys)",
        outcomes={
            "fsync": (
                r"^Redis checks the text of Lua scripts and refuses those of this service "
                r"\(.*KEYS array.*\)\. Set the parameter script_check_enable to 0"
            )
        },
    ),
    ServiceProfile(
        name="alibaba-tair-cluster-unchecked",
        replies=lack("HELLO"),
        outcomes={"fsync": ""},
    ),
    ServiceProfile(
        name="dragonfly",
        replies=lack("WAITAOF") | {"CONFIG GET": EMPTY, "WAIT": ONE_REPLICA},
        info="redis_version:7.4.0\r\ndragonfly_version:df-v1.30.0",
        outcomes={
            "replica": "",
            "fsync": (
                r"^Redis cannot confirm that a write is on disk: CONFIG GET does not show "
                r"appendonly, and WAITAOF fails \(.*\)\. Add a replica and set "
                r"ENRICHER_DURABILITY=replica, or memory to accept the loss\.$"
            ),
        },
    ),
)
