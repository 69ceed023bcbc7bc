"""The sockets on which an HTTP server listens.

uvloop hides that ``listen`` failed, so the port would be taken and nobody would know: of two
processes that start at once, both may bind a port, and only one can listen.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Iterable
from typing import Any

_BACKLOG = 128  # connections that wait to be accepted

Address = tuple[socket.AddressFamily, Any]
"""A family, and the address in its form."""


async def find_addresses(host: str, port: int) -> list[Address]:
    """Return the addresses of a host, each once. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return [*dict.fromkeys((socket.AddressFamily(family), at) for family, _, _, _, at in found)]


def open_listeners(addresses: Iterable[Address]) -> list[socket.socket]:
    """Return a socket that listens, for each address. Raises OSError.

    An address is left out if this machine lacks its family (such as IPv6), unless all are.
    """
    listeners: list[socket.socket] = []
    try:
        for family, address in addresses:
            listener = _create_socket(family)
            if listener is not None:
                listeners.append(listener)
                _listen(listener, address)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    if not listeners:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return listeners


def _create_socket(family: socket.AddressFamily) -> socket.socket | None:
    try:
        return socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise


def _listen(listener: socket.socket, address: tuple[Any, ...]) -> None:
    """Bind a socket and listen. With port 0 the kernel chooses a port that no process has bound."""
    host, port = address[:2]
    if port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {host}, port {port}") from None
