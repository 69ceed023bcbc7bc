"""Lua scripts, known to the server by their SHA-1.

Each script begins with a line that only Redis 7 and Valkey read (``#!lua``). They then refuse the
script as a whole, before its first command, while their memory is full. Without that line the first
*write* decides: some commands are refused and some are not. A script whose header has ``Flags`` is
executed all the same: ``allow-oom`` if it writes, ``no-writes`` if it only reads.
"""

import re
from hashlib import sha1
from importlib.resources import files

from msgspec import Struct

_PRELUDES = ("lib_time", "lib_wakeup")
"""Files of this package that stand before every script: the clock, and how to wake a worker."""

_FLAGS = re.compile(r"^-- Flags +([a-z-]+)", re.MULTILINE)


class Script(Struct, frozen=True):
    """One Lua script: its name, its text, and the SHA-1 that EVALSHA takes.

    With ``has_clock`` it expects the clock of its namespace as its last key.
    ``runs_when_full``: the server executes it although its memory is full. ``plain`` is the same
    script for a server that refuses the first line.
    """

    name: str
    text: bytes
    sha: bytes
    has_clock: bool = False
    runs_when_full: bool = False
    plain: "Script | None" = None


def load_script(package: str, name: str, *, prelude: str = "") -> Script:
    """Return the script ``lua/<name>.lua`` of a package.

    ``prelude`` is Lua text with the functions that the script calls: see :func:`read_lua`.
    ``now_ms`` and ``wake`` are defined for every script.
    """
    body = read_lua(package, name)
    found = _FLAGS.search(body)
    shebang = f"#!lua flags={found[1]}\n" if found else "#!lua\n"
    is_read_only = "true" if found and found[1] == "no-writes" else "false"
    first_line = f"local is_read_only = {is_read_only}\n"
    text = first_line + read_lua(__package__, *_PRELUDES) + prelude + body
    return Script(
        name=name,
        text=(shebang + text).encode(),
        sha=_hash(shebang + text),
        has_clock=True,
        runs_when_full=found is not None,
        plain=Script(name=name, text=text.encode(), sha=_hash(text), has_clock=True),
    )


def read_lua(package: str, *names: str) -> str:
    """Return the text of the files ``lua/<name>.lua`` of a package, one after the other."""
    folder = files(package).joinpath("lua")
    return "".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> bytes:
    return sha1(text.encode(), usedforsecurity=False).hexdigest().encode()
