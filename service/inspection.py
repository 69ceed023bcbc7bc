"""What does `sources` tell? Which there are, what one makes of a webhook, what its sender needs."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import assert_never

from service.accept.signature import SignedRequest
from service.accept.sources import Source
from service.app import build_filter
from service.configured import inspect_sources, read_presets
from service.operate.recipes import (
    build_example_source,
    fill_setup_page,
    is_verified_as_preset,
    parse_preset_comment,
    read_setup_pages,
    render_setup_page,
)
from service.operate.sources import render_sources
from service.operate.trial import explain_webhook
from service.settings import Settings, SettingsError

_EXIT_FAILURE = 1


async def run_sources(arguments: argparse.Namespace, settings: Settings) -> int:
    """Do what was typed after `sources`; neither Redis nor LaunchDarkly is asked."""
    match arguments.what:
        case "list":
            return _print_sources(settings, arguments.url)
        case "try":
            return _try_webhook(settings, arguments)
        case "recipe":
            return _print_setup(settings, arguments.name, arguments.url)
        case never:
            assert_never(never)


def _print_sources(settings: Settings, url: str | None) -> int:
    sources, secret_problems = inspect_sources(settings, os.environ)
    base_url = url or local_receiver_url(settings)
    sys.stdout.write(render_sources(sources, base_url=base_url, secret_problems=secret_problems))
    if url is None:
        sys.stderr.write(f"{base_url} is where the door listens; --url says how it is reached\n")
    return _EXIT_FAILURE if secret_problems else 0


def _try_webhook(settings: Settings, arguments: argparse.Namespace) -> int:
    sources, secret_problems = inspect_sources(settings, os.environ)
    source = sources.get(arguments.name)
    if source is None:
        known_names = ", ".join(sources)
        raise SettingsError(f"there is no source {arguments.name!r} (there are: {known_names})")
    request = SignedRequest(
        {name.lower(): value for name, value in arguments.header},
        dict(arguments.query),
        _read_body(arguments.file),
    )
    explanation = explain_webhook(
        source, request, now_s=time.time(), deployment_filter=build_filter(settings)
    )
    sys.stdout.write(explanation.report)
    for location in source.secret_locations:
        if location in secret_problems:
            sys.stdout.write(
                f"{location} {secret_problems[location]}: what it signs cannot be verified here\n"
            )
    return 0 if explanation.accepted else _EXIT_FAILURE


def _print_setup(settings: Settings, name: str, url: str | None) -> int:
    sources: dict[str, Source] = {}
    if settings.sources or settings.webhook_secret:
        sources, _ = inspect_sources(settings, os.environ)
    presets = read_presets()
    source = sources.get(name) or build_example_source(name, presets=presets)
    preset = source.preset or ""
    page = read_setup_pages().get(preset)
    if page is None or not is_verified_as_preset(source, presets=presets):
        preset_comment = parse_preset_comment(preset, presets=presets)
        page = render_setup_page(
            source, preset_comment=preset_comment, is_configured=name in sources
        )
    base_url = url or local_receiver_url(settings)
    example_name = preset or source.name
    sys.stdout.write(
        fill_setup_page(page, preset=example_name, source_name=source.name, base_url=base_url)
    )
    return 0


def local_receiver_url(settings: Settings) -> str:
    """Give the address on which the door listens, or would."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _read_body(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
