"""The version of a Redis-compatible server, and whose data it can read."""

import re
from typing import Self

from msgspec import Struct

# `--version` prints "Redis server v=7.0.15 sha=…" or "Valkey server v=9.1.2 sha=…".
_PRINTED = re.compile(r"([A-Za-z]+) server v=([0-9]+)\.([0-9]+)\.([0-9]+)")
_TEXT = re.compile(r"([A-Za-z]+) ([0-9]+)\.([0-9]+)\.([0-9]+)")

# Valkey 7.2 began as a copy of Redis 7.2 and reads the data of Redis up to then. Redis 7.4 changed
# the format (https://valkey.io/topics/migration/), and no Redis promises to read Valkey's.
_LAST_REDIS_FOR_VALKEY = (7, 2)


class ServerVersion(Struct, frozen=True):
    """The name of a server's program and its version, such as Valkey 9.1.2."""

    product: str
    major: int
    minor: int
    patch: int

    @classmethod
    def from_printed(cls, printed: str) -> Self | None:
        """Return the version that `--version` printed, None if it names none."""
        return cls._from_match(_PRINTED.match(printed))

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """Return the version that ``str`` formatted, None if the text is no such version."""
        return cls._from_match(_TEXT.fullmatch(text.strip()))

    @classmethod
    def _from_match(cls, match: re.Match[str] | None) -> Self | None:
        return cls(match[1], *map(int, match.groups()[1:])) if match else None

    def __str__(self) -> str:
        return f"{self.product} {self.major}.{self.minor}.{self.patch}"

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor number; a patch changes no format of the data."""
        return self.major, self.minor

    def can_read(self, writer: "ServerVersion") -> bool:
        """Return whether this server reads what another wrote.

        It reads the data of the same product up to its own release. Valkey also reads the data of
        Redis up to 7.2.
        """
        if self.product == writer.product:
            return self.release >= writer.release
        is_ancestor = (self.product, writer.product) == ("Valkey", "Redis")
        return is_ancestor and writer.release <= _LAST_REDIS_FOR_VALKEY
