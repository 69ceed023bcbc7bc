"""When is there a console, and what is it made of? On this machine alone, or behind a token."""

import secrets
import time
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from service.accept.sources import Source
from service.backlog.failed import FailedOnes
from service.house import House, count_tokens
from service.operate.console.access import Gate, is_loopback_only, make_key
from service.operate.console.guard import Guard
from service.operate.console.looking import Looker
from service.operate.console.pages import Pages
from service.operate.console.reception import Collaborators, Console
from service.operate.console.seeking import Seeker
from service.operate.console.watching import Watch
from service.operate.survey import Surveyor
from service.settings import Settings


def has_console(settings: Settings) -> bool:
    """Tell whether there is a console: never beyond this machine without a token."""
    is_kept_in = bool(settings.console_token) or is_loopback_only(settings.host)
    return settings.console == "auto" and is_kept_in


def add_console(house: House, sources: Mapping[str, Source], app: web.Application) -> None:
    """Add the console to a door, if there is to be one."""
    if has_console(house.settings):
        make_console(house, sources).add_to(app)


def make_console(house: House, sources: Mapping[str, Source]) -> Console:
    """Make the console of a house."""
    settings, group, keys, log = house.settings, house.group, house.keys, house.log
    token = settings.console_token.reveal()
    gate = Gate(token=token, key=make_key(token or secrets.token_hex(32)))
    pages = Pages(namespace=settings.namespace, share=settings.rate_share)
    ones = FailedOnes(house.client, group, keys=keys, new_token=count_tokens())
    looker = Looker(
        group,
        keys=keys,
        survey=Surveyor(group, keys=keys, share=settings.rate_share).survey,
        read_failed=ones.read,
        count_received=lambda: house.metrics.received,
    )
    new_number = partial(secrets.token_hex, 16)
    return Console(
        Collaborators(
            guard=Guard(gate, pages, clock=time.time, new_number=new_number, log=log),
            pages=pages,
            watch=Watch(looker.look, pages.draw_parts, clock=time.monotonic, log=log),
            seeker=Seeker(group, keys=keys, clock=time.monotonic),
            ones=ones,
            sources=sources,
            clock=time.time,
            log=log,
        )
    )
