"""What does `sources` tell? Which there are, what one makes of a webhook, what its sender needs."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import assert_never

from service.accept.signature import SignedRequest
from service.accept.sources import Source
from service.app import make_only
from service.configured import read_presets, survey_sources
from service.operate.recipes import (
    fill_page,
    find_about,
    find_pages,
    is_as_its_page,
    make_example,
    write_page,
)
from service.operate.sources import list_sources
from service.operate.trial import try_webhook
from service.settings import Settings, SettingsError

_FAILURE = 1


async def inspect(arguments: argparse.Namespace, settings: Settings) -> int:
    """Do what was typed after `sources`; neither Redis nor LaunchDarkly is asked."""
    match arguments.what:
        case "list":
            return _list(settings, arguments.url)
        case "try":
            return _try(settings, arguments)
        case "recipe":
            return _recipe(settings, arguments.name, arguments.url)
        case never:
            assert_never(never)


def _list(settings: Settings, url: str | None) -> int:
    sources, troubles = survey_sources(settings, os.environ)
    base_url = url or guess_url(settings)
    sys.stdout.write(list_sources(sources, base_url=base_url, troubles=troubles))
    if url is None:
        sys.stderr.write(f"{base_url} is where the door listens; --url says how it is reached\n")
    return _FAILURE if troubles else 0


def _try(settings: Settings, arguments: argparse.Namespace) -> int:
    sources, troubles = survey_sources(settings, os.environ)
    source = sources.get(arguments.name)
    if source is None:
        known = ", ".join(sources)
        raise SettingsError(f"there is no source {arguments.name!r} (there are: {known})")
    request = SignedRequest(
        {name.lower(): value for name, value in arguments.header},
        dict(arguments.query),
        _read_body(arguments.file),
    )
    trial = try_webhook(source, request, now_s=time.time(), only=make_only(settings))
    sys.stdout.write(trial.report)
    for place in source.secret_places:
        if place in troubles:
            sys.stdout.write(f"{place} {troubles[place]}: what it signs cannot be verified here\n")
    return 0 if trial.is_welcome else _FAILURE


def _recipe(settings: Settings, name: str, url: str | None) -> int:
    sources: dict[str, Source] = {}
    if settings.sources or settings.webhook_secret:
        sources, _ = survey_sources(settings, os.environ)
    presets = read_presets()
    source = sources.get(name) or make_example(name, presets=presets)
    preset = source.preset or ""
    page = find_pages().get(preset)
    if page is None or not is_as_its_page(source, presets=presets):
        about = find_about(preset, presets=presets)
        page = write_page(source, about=about, is_there=name in sources)
    base_url = url or guess_url(settings)
    named = preset or source.name
    sys.stdout.write(fill_page(page, preset=named, source_name=source.name, base_url=base_url))
    return 0


def guess_url(settings: Settings) -> str:
    """Give the address on which the door listens, or would."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _read_body(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
