"""When is there a console, and what is it made of? On this machine alone, or behind a token."""

import secrets
import time
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from service.accept.sources import Source
from service.backlog.failed import FailedTickets
from service.house import Runtime, build_token_factory
from service.operate.console.access import ConsoleAuth, derive_key, is_loopback_bind
from service.operate.console.guard import AuthMiddleware
from service.operate.console.looking import OverviewReader
from service.operate.console.pages import ConsolePages
from service.operate.console.reception import Console, ConsoleDependencies
from service.operate.console.seeking import Searcher
from service.operate.console.watching import LiveFeed
from service.operate.survey import NamespaceReader
from service.settings import Settings


def is_console_enabled(settings: Settings) -> bool:
    """Tell whether there is a console: never beyond this machine without a token."""
    is_protected = bool(settings.console_token) or is_loopback_bind(settings.host)
    return settings.console == "auto" and is_protected


def add_console(runtime: Runtime, sources: Mapping[str, Source], app: web.Application) -> None:
    """Add the console to a door, if there is to be one."""
    if is_console_enabled(runtime.settings):
        build_console(runtime, sources).add_routes(app)


def build_console(runtime: Runtime, sources: Mapping[str, Source]) -> Console:
    """Make the console of a house."""
    settings, group_commit, keys, log = (
        runtime.settings,
        runtime.group_commit,
        runtime.keys,
        runtime.log,
    )
    token = settings.console_token.reveal()
    auth = ConsoleAuth(token=token, signing_key=derive_key(token or secrets.token_hex(32)))
    pages = ConsolePages(namespace=settings.namespace, share=settings.rate_limit_share)
    failed_tickets = FailedTickets(
        runtime.client, group_commit, keys=keys, new_token=build_token_factory()
    )
    overview_reader = OverviewReader(
        group_commit,
        keys=keys,
        read_stats=NamespaceReader(
            group_commit, keys=keys, share=settings.rate_limit_share
        ).read_stats,
        read_failed=failed_tickets.read,
        count_received=lambda: runtime.metrics.webhooks_received,
    )
    new_session_id = partial(secrets.token_hex, 16)
    return Console(
        ConsoleDependencies(
            auth_middleware=AuthMiddleware(
                auth, pages, clock=time.time, new_session_id=new_session_id, log=log
            ),
            pages=pages,
            live_feed=LiveFeed(
                overview_reader.read, pages.render_fragments, clock=time.monotonic, log=log
            ),
            searcher=Searcher(group_commit, keys=keys, clock=time.monotonic),
            failed_tickets=failed_tickets,
            sources=sources,
            clock=time.time,
            log=log,
        )
    )
