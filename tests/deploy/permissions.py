"""Which rights does the service need in Redis? Read from its code, written as an ACL.

python -m tests.deploy.permissions > deploy/redis/enricher.acl
python -m tests.deploy.permissions NAMESPACE     # for another ENRICHER_NAMESPACE
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from redis.asyncio import Redis

from service.settings import Settings
from service.store.keys import Keys

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "redis" / "enricher.acl"

# The hash of no password: nobody gets in before it is replaced.
NO_PASSWORD = "#" + "0" * 64

# Commands that are many, told apart by their second word.
CONTAINERS = {"ACL", "CLIENT", "CLUSTER", "CONFIG", "FUNCTION", "MEMORY", "OBJECT", "SCRIPT"}
CONTAINERS |= {"XGROUP", "XINFO"}
# What the client library says by itself when it opens a connection.
BY_THE_LIBRARY = {"CLIENT|SETINFO", "SELECT"}
# Asked of Sentinel, whose users are its own.
ELSEWHERE = {"SENTINEL"}
# Methods of the client that are no command of the same name.
ITERATED = {
    "hscan_iter": "HSCAN",
    "scan_iter": "SCAN",
    "sscan_iter": "SSCAN",
    "zscan_iter": "ZSCAN",
}
NO_COMMANDS = {"aclose", "pipeline"}
# The demo clears its own table: a server that it started itself, or a namespace of its own.
NOT_THE_SERVICE = {"rehearsal.py"}

# What a consumer of the records needs, with a group or without.
READING = [
    *("xread", "xreadgroup", "xack", "xautoclaim", "xclaim", "xpending", "xrange", "xrevrange"),
    *("xlen", "xgroup|create", "xgroup|createconsumer", "xinfo|groups", "xinfo|stream"),
    *("ping", "client|setinfo", "select"),
]


def list_commands() -> list[str]:
    """List every command that the service sends or runs in a script."""
    lua = (path.read_text() for path in sorted((ROOT / "service").rglob("*.lua")))
    found = {name for text in lua for name in _read_lua(text)} | BY_THE_LIBRARY
    for path in sorted((ROOT / "service").rglob("*.py")):
        tree = ast.parse(path.read_text())
        if path.name not in NOT_THE_SERVICE and "simulate" not in path.parts:
            found |= {*_read_methods(tree)}
        if path.parent.name == "store":  # where commands are words
            found |= {*_read_words(tree)}
    return sorted(name.lower() for name in found - ELSEWHERE)


def list_keys(namespace: str) -> list[str]:
    """List every key of a namespace; those that have a part of their own as patterns."""
    keys = Keys(namespace)
    made = [
        getattr(keys, name)
        if isinstance(member, property)
        else member(keys, *["*"] * (len(inspect.signature(member).parameters) - 1))
        for name, member in vars(Keys).items()
        if not name.startswith("_") and (isinstance(member, property) or inspect.isfunction(member))
    ]
    return sorted(made)


def write_acl(namespace: str) -> str:
    """Write the users: the service itself, and who reads its records."""
    return "".join(
        f"user {name} on {NO_PASSWORD} resetchannels resetkeys {keys} -@all {commands}\n"
        for name, keys, commands in (
            (
                "enricher",
                " ".join(f"~{key}" for key in list_keys(namespace)),
                " ".join(f"+{name}" for name in list_commands()),
            ),
            (
                "reader",
                f"~{Keys(namespace).enriched}",
                " ".join(f"+{name}" for name in sorted(READING)),
            ),
        )
    )


def _read_lua(text: str) -> Iterator[str]:
    calls = re.findall(r"redis\.p?call\((?:'(\w+)'(?:, '(\w+)')?)?", text)
    for command, second in calls:
        assert command, "a script calls a command that is not written out"
        yield _name(command, second)


def _read_methods(tree: ast.Module) -> Iterator[str]:
    """Read ``client.xread(...)`` and the like; of what is called so, only commands are taken."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        method, of = node.func.attr, ast.unparse(node.func.value)
        if of.endswith("client") and hasattr(Redis, method) and method not in NO_COMMANDS:
            yield ITERATED.get(method) or _name(*method.upper().partition("_")[::2])


def _read_words(tree: ast.Module) -> Iterator[str]:
    """Read ``ask("CONFIG", "GET", ...)`` and ``("WAIT", 1, ...)``: words in capitals, put first."""
    for node in ast.walk(tree):
        words = node.elts if isinstance(node, ast.Tuple) else getattr(node, "args", ())
        told = [
            word.value if isinstance(word, ast.Constant) and isinstance(word.value, str) else ""
            for word in (words if isinstance(words, list) else ())
        ]
        is_call = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("ask", "send_command")
        )
        if told and (is_call or isinstance(node, ast.Tuple)) and _is_command(told[0]):
            yield _name(told[0], told[1] if len(told) > 1 else "")


def _is_command(word: str) -> bool:
    """Tell a command from other words in capitals, such as the codes of errors."""
    is_known = any(method.startswith(word.lower()) for method in dir(Redis))
    return bool(re.fullmatch(r"[A-Z]{2,}", word)) and is_known


def _name(command: str, second: str) -> str:
    return f"{command}|{second}" if command in CONTAINERS and second else command


if __name__ == "__main__":
    sys.stdout.write(write_acl(sys.argv[1] if len(sys.argv) > 1 else Settings().namespace))
