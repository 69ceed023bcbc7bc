"""Lua scripts, known to the server by their SHA-1."""

from hashlib import sha1
from importlib.resources import files

from msgspec import Struct

_PRELUDES = ("lib_time", "lib_wakeup")
"""Files of this package that stand before every script: the clock, and how to wake a worker."""


class Script(Struct, frozen=True):
    """One Lua script: its name, its text, and the SHA-1 that EVALSHA takes."""

    name: str
    text: bytes
    sha: bytes


def load_script(package: str, name: str, *, prelude: str = "") -> Script:
    """Return the script ``lua/<name>.lua`` of a package.

    ``prelude`` is Lua text with the functions that the script calls: see :func:`read_lua`.
    ``now_ms`` and ``wake`` are defined for every script.
    """
    text = (read_lua(__package__, *_PRELUDES) + prelude + read_lua(package, name)).encode()
    digest = sha1(text, usedforsecurity=False).hexdigest()
    return Script(name=name, text=text, sha=digest.encode())


def read_lua(package: str, *names: str) -> str:
    """Return the text of the files ``lua/<name>.lua`` of a package, one after the other."""
    folder = files(package).joinpath("lua")
    return "".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names)
