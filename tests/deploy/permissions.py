"""The Redis permissions of the service, read from its code and rendered as an ACL file.

python -m tests.deploy.permissions > deploy/redis/enricher.acl
python -m tests.deploy.permissions NAMESPACE     # for another ENRICHER_NAMESPACE
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from redis.asyncio import Redis

from service.settings import Settings
from service.store.keys import Keys

ROOT = Path(__file__).resolve().parents[2]
ACL_FILE = ROOT / "deploy" / "redis" / "enricher.acl"

# No password has this hash: nobody can log in before an operator replaces it.
NO_PASSWORD = "#" + "0" * 64

# Commands with subcommands.
CONTAINER_COMMANDS = {
    "ACL",
    "CLIENT",
    "CLUSTER",
    "CONFIG",
    "FUNCTION",
    "MEMORY",
    "OBJECT",
    "SCRIPT",
}
CONTAINER_COMMANDS |= {"XGROUP", "XINFO"}
# Commands that redis-py sends when it opens a connection.
CLIENT_LIBRARY_COMMANDS = {"CLIENT|SETINFO", "SELECT"}
# Commands with which the client library of this project reads the stream for ``tail``.
TAIL_COMMANDS = {"XREAD", "XREVRANGE"}
# Commands to Sentinel, which has its own users.
SENTINEL_COMMANDS = {"SENTINEL"}
# Client methods without a command of the same name.
ITERATOR_COMMANDS = {
    "hscan_iter": "HSCAN",
    "scan_iter": "SCAN",
    "sscan_iter": "SSCAN",
    "zscan_iter": "ZSCAN",
}
NON_COMMAND_METHODS = {"aclose", "pipeline"}
# The demo deletes the keys of its own server or of its own namespace.
EXCLUDED_FILES = {"demo.py"}

# The commands of a reader, with and without a consumer group, and of the connectors that read
# streams for other systems: they name their connection, and ask what server they speak to.
READER_COMMANDS = [
    *("xread", "xreadgroup", "xack", "xautoclaim", "xclaim", "xpending", "xrange", "xrevrange"),
    *("xlen", "xgroup|create", "xgroup|createconsumer", "xinfo|groups", "xinfo|stream"),
    *("ping", "client|setinfo", "client|setname", "client|id", "select", "info"),
    *("cluster|slots", "cluster|shards"),
]


def list_commands() -> list[str]:
    """Return every Redis command that the service sends or runs in a script."""
    scripts = (path.read_text() for path in sorted((ROOT / "service").rglob("*.lua")))
    commands = (
        {name for text in scripts for name in _commands_in_lua(text)}
        | CLIENT_LIBRARY_COMMANDS
        | TAIL_COMMANDS
    )
    for path in sorted((ROOT / "service").rglob("*.py")):
        tree = ast.parse(path.read_text())
        if path.name not in EXCLUDED_FILES and "simulate" not in path.parts:
            commands |= {*_commands_by_method(tree)}
        if path.parent.name == "store":  # these files send commands by name
            commands |= {*_commands_by_name(tree)}
    return sorted(name.lower() for name in commands - SENTINEL_COMMANDS)


def list_keys(namespace: str) -> list[str]:
    """Return every key of a namespace. Keys with a variable part are patterns."""
    keys = Keys(namespace)
    patterns = [
        getattr(keys, name)
        if isinstance(member, cached_property)
        else member(keys, *["*"] * (len(inspect.signature(member).parameters) - 1))
        for name, member in vars(Keys).items()
        if not name.startswith("_")
        and (isinstance(member, cached_property) or inspect.isfunction(member))
    ]
    return sorted(set(patterns))


def render_acl(namespace: str) -> str:
    """Return the ACL lines of both users: the service, and a reader of the records."""
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
                " ".join(f"+{name}" for name in sorted(READER_COMMANDS)),
            ),
        )
    )


def _commands_in_lua(text: str) -> Iterator[str]:
    calls = re.findall(r"redis\.p?call\((?:'(\w+)'(?:, '(\w+)')?)?", text)
    for command, subcommand in calls:
        assert command, "a script calls a command whose name is not a literal"
        yield _command_name(command, subcommand)


def _commands_by_method(tree: ast.Module) -> Iterator[str]:
    """Yield the commands of calls such as ``client.xread(...)``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        method, receiver = node.func.attr, ast.unparse(node.func.value)
        if (
            receiver.endswith("client")
            and hasattr(Redis, method)
            and method not in NON_COMMAND_METHODS
        ):
            yield ITERATOR_COMMANDS.get(method) or _command_name(
                *method.upper().partition("_")[::2]
            )


def _commands_by_name(tree: ast.Module) -> Iterator[str]:
    """Yield the commands of ``ask("CONFIG", "GET", ...)`` and of ``("WAIT", 1, ...)``."""
    for node in ast.walk(tree):
        arguments = node.elts if isinstance(node, ast.Tuple) else getattr(node, "args", ())
        texts = [
            argument.value
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            else ""
            for argument in (arguments if isinstance(arguments, list) else ())
        ]
        is_call = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("ask", "send_command")
        )
        if texts and (is_call or isinstance(node, ast.Tuple)) and _is_command(texts[0]):
            yield _command_name(texts[0], texts[1] if len(texts) > 1 else "")


def _is_command(text: str) -> bool:
    """Return whether a text is a Redis command and not another text in capitals."""
    is_known = any(method.startswith(text.lower()) for method in dir(Redis))
    return bool(re.fullmatch(r"[A-Z]{2,}", text)) and is_known


def _command_name(command: str, subcommand: str) -> str:
    return f"{command}|{subcommand}" if command in CONTAINER_COMMANDS and subcommand else command


if __name__ == "__main__":
    sys.stdout.write(render_acl(sys.argv[1] if len(sys.argv) > 1 else Settings().namespace))
