"""Scripts on a server: loading one, and a check whether it runs those of this service."""

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from service.store import RedisMisconfigured
from service.store.connect import close_connection, command_sender, open_connection
from service.store.durability import Barrier, SendCommand
from service.store.error_replies import format_error, is_denied
from service.store.keys import clock_key
from service.store.script import Script, load_script
from service.store.services import Durability

_PROBE = load_script(__package__, "script_probe")


async def open_script_connection(
    client: Redis, durability: Durability, *, probe_key: str = ""
) -> tuple[AbstractConnection, Barrier | None, list[str]]:
    """Return what :func:`open_connection` returns, for a server that also runs scripts.

    ``probe_key`` is a key of the namespace that a script may read; without it, scripts are not
    tried. Raises the errors of :func:`open_connection`.
    """
    connection, barrier, warnings = await open_connection(client, durability)
    try:
        if probe_key:
            await check_scripts(command_sender(connection), probe_key)
    except BaseException:
        await close_connection(client, connection)
        raise
    return connection, barrier, warnings


async def check_scripts(send_command: SendCommand, probe_key: str) -> None:
    """Run a small script. Raises RedisMisconfigured with the fix if the server refuses it."""
    command = "SCRIPT LOAD"
    try:
        loaded = await load_on_server(send_command, _PROBE)
        command = "EVALSHA"
        await send_command("EVALSHA", loaded.sha, 2, probe_key, clock_key(probe_key))
    except ResponseError as error:
        raise RedisMisconfigured(_explain(command, error)) from None


async def load_on_server(send_command: SendCommand, script: Script) -> Script:
    """Load a script and return it: without its first line, if the server refuses that line.

    Dragonfly does not know ``#!lua``. Raises ResponseError if the server refuses both.
    """
    try:
        await send_command("SCRIPT", "LOAD", script.text)
    except ResponseError as error:
        if script.plain is None or is_denied(error):
            raise
        await send_command("SCRIPT", "LOAD", script.plain.text)
        return script.plain
    return script


def _explain(command: str, error: ResponseError) -> str:
    text = format_error(error)
    if "bad lua script" in text:  # Alibaba Cloud
        return (
            f"Redis checks the text of Lua scripts and refuses those of this service ({text}). "
            "Set the parameter script_check_enable to 0: all keys of a namespace are in one slot, "
            "so the check is not needed."
        )
    if is_denied(error):
        return (
            f"Redis does not run Lua scripts, which this service needs: {command} fails ({text}). "
            "Allow EVALSHA and SCRIPT LOAD to this user, or use a service that has them (on OCI "
            "Cache, a non-sharded cluster)."
        )
    return (
        f"Redis cannot run the Lua scripts of this service: {command} fails ({text}). "
        "Use Redis 7.0 or newer, or Valkey."
    )
