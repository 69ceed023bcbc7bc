"""Redis users of deploy/redis/enricher.acl, for the namespace of one test."""

import hashlib
from typing import Any

from redis.asyncio import Redis

from service.store.keys import Keys
from tests.deploy.permissions import ACL_FILE, NO_PASSWORD

PASSWORD = "s3cr3t"


class AclUsers:
    """The users of the ACL file, for the namespace of one test."""

    def __init__(self, redis: Redis, url: str, keys: Keys) -> None:
        self.redis = redis
        self.keys = keys
        self._socket = url.removeprefix("unix://")
        self._execute: Any = redis.execute_command
        self._names: list[str] = []

    async def add(self, name: str, *, without_command: str = "") -> str:
        """Create a user of the file, without one command if given; return its URL."""
        (line,) = [
            acl_line
            for acl_line in ACL_FILE.read_text().splitlines()
            if acl_line.split()[1] == name
        ]
        digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
        line = line.replace(NO_PASSWORD, f"#{digest}")
        rules = line.replace("{deployments}", f"{{{self.keys.namespace}}}").split()[2:]
        kept_rules = [rule for rule in rules if rule != f"+{without_command}"]
        assert len(kept_rules) == len(rules) - bool(without_command)
        user_name = f"{name}-{self.keys.namespace}"
        await self._execute("ACL", "SETUSER", user_name, *kept_rules)
        await self._execute("ACL", "LOG", "RESET")
        self._names.append(user_name)
        return f"unix://{user_name}:{PASSWORD}@{self._socket}"

    async def list_refusals(self) -> list[str]:
        """Return the denied commands and keys."""
        log: Any = await self._execute("ACL", "LOG")
        return sorted({_format_denial(entry) for entry in log})

    async def delete(self) -> None:
        """Delete the users."""
        if self._names:
            await self._execute("ACL", "DELUSER", *self._names)


def _format_denial(entry: Any) -> str:
    raw_fields = (
        entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
    )
    fields = {_decode(name): _decode(value) for name, value in raw_fields.items()}
    return f"{fields['reason']} {fields['object']}"


def _decode(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
