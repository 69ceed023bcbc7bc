"""Serve the page. `python -m dora redis://127.0.0.1:6379`, in the folder above this one."""

import argparse

from aiohttp import web

from .periods import PERIODS
from .reader import Reader
from .server import DoraServer


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m dora", description=__doc__)
    parser.add_argument("redis_url", help="URL of Redis, as ENRICHER_REDIS_URL takes it")
    parser.add_argument("--namespace", default="deployments", help="ENRICHER_NAMESPACE")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8090, help="port to listen on")
    parser.add_argument("--period", choices=PERIODS, default="30d", help="period shown first")
    arguments = parser.parse_args()
    reader = Reader(arguments.redis_url, namespace=arguments.namespace)
    server = DoraServer(reader, default_period=arguments.period)
    web.run_app(server.app(), host=arguments.host, port=arguments.port, access_log=None)


if __name__ == "__main__":
    main()
