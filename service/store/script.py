"""Lua scripts, known to the server by their hash, and the text of Redis replies."""

from hashlib import sha1
from importlib.resources import files

from msgspec import Struct


class Script(Struct, frozen=True):
    """One Lua script: its name, its text, and the SHA-1 that EVALSHA calls it by."""

    name: str
    text: bytes
    sha: bytes


def load_script(package: str, name: str, *, prelude: str = "") -> Script:
    """Return the script ``lua/<name>.lua`` of a package; ``prelude`` is Lua text put before it."""
    text = (prelude + read_lua(package, name)).encode()
    digest = sha1(text, usedforsecurity=False).hexdigest()
    return Script(name=name, text=text, sha=digest.encode())


def read_lua(package: str, name: str) -> str:
    """Return the text of ``lua/<name>.lua`` in a package."""
    return files(package).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def decode_text(value: object) -> str:
    """Return a Redis reply as text; bytes that are not UTF-8 become replacement characters."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
