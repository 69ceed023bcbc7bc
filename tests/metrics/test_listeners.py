"""Tests of the sockets on which an HTTP server listens."""

import errno
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop
from aiohttp import web

from service.metrics.http import serve_app
from service.metrics.listeners import open_listeners

LOOPBACK = (socket.AF_INET, ("127.0.0.1", 0))
FAMILY_THAT_IS_LACKING = (socket.AF_SNA, ("::1", 0))


def serve_at_once(count: int) -> list[str]:
    """Serve an application on one port from several event loops at once; return what became."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    begin, end = (threading.Barrier(count, timeout=10) for _ in range(2))

    async def serve() -> str:
        begin.wait()
        try:
            async with serve_app(web.Application(), host="127.0.0.1", port=port):
                end.wait()
                return "serves"
        except OSError as error:
            end.wait()
            return errno.errorcode[error.errno or 0]

    with ThreadPoolExecutor(count) as pool:
        served = [pool.submit(uvloop.run, serve()) for _ in range(count)]
        return sorted(future.result() for future in served)


def test_of_processes_that_start_at_once_each_serves_or_learns_that_the_port_is_taken() -> None:
    """All may bind the port, and only one can listen: two workers of one machine."""
    for _ in range(20):
        assert serve_at_once(4) == ["EADDRINUSE", "EADDRINUSE", "EADDRINUSE", "serves"]


def test_address_whose_family_the_machine_lacks_is_left_out() -> None:
    """`localhost` may name IPv6 where the kernel has none."""
    (listener,) = open_listeners([FAMILY_THAT_IS_LACKING, LOOPBACK])
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_host_without_a_usable_address_is_an_error() -> None:
    """Otherwise a server would listen nowhere."""
    with pytest.raises(OSError, match="not supported"):
        open_listeners([FAMILY_THAT_IS_LACKING])
