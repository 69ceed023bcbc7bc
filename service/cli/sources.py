"""The commands `sources list`, `try` and `setup`: who sends webhooks, and what becomes of them."""

import os
import sys
import time
from pathlib import Path

import click

from service.accept.signatures import SignedRequest
from service.accept.source_files import read_presets, read_setup_page
from service.accept.sources import Source
from service.app import build_filter
from service.cli.explain import explain_webhook
from service.cli.parameters import pair_parser, parse_base_url
from service.cli.preconditions import inspect_sources, local_receiver_url
from service.cli.setup_pages import (
    build_example_source,
    fill_setup_page,
    render_setup_page,
)
from service.cli.source_text import render_sources
from service.cli.terminal import EXIT_CODES, EXIT_FAILURE
from service.settings import SettingsError, read_settings

_URL_OPTION = click.option(
    "--url", type=parse_base_url, metavar="URL", help="How senders reach the receiver: https://..."
)
_LIST_EXIT_CODES = "Exit codes: 0 all secrets are set, 1 one is not, 2 a wrong argument or setting."
_TRY_EXIT_CODES = "Exit codes: 0 accepted, 1 not accepted, 2 a wrong argument or setting."


@click.group("sources", epilog=EXIT_CODES)
def sources_commands() -> None:
    """List the sources of webhooks, try one, set one up."""


@sources_commands.command("list", epilog=_LIST_EXIT_CODES)
@_URL_OPTION
def list_command(url: str | None) -> int:
    """List each source: URL, verification, whether secrets are set."""
    settings = read_settings(os.environ)
    sources, secret_problems = inspect_sources(settings, os.environ)
    base_url = url or local_receiver_url(settings)
    text = render_sources(sources, base_url=base_url, secret_problems=secret_problems)
    click.echo(text, nl=False)
    if url is None:
        click.echo(
            f"{base_url} is where the receiver listens; pass the public URL with --url", err=True
        )
    return EXIT_FAILURE if secret_problems else 0


@sources_commands.command("try", epilog=_TRY_EXIT_CODES)
@click.argument("name")
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option(
    "--header",
    "headers",
    type=pair_parser(":"),
    multiple=True,
    metavar="'NAME: VALUE'",
    help="A header as received; repeatable.",
)
@click.option(
    "--query",
    type=pair_parser("="),
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the URL; repeatable.",
)
def try_command(
    name: str, file: str, headers: tuple[tuple[str, str], ...], query: tuple[tuple[str, str], ...]
) -> int:
    """Explain what source NAME makes of a webhook; queue nothing.

    FILE holds the body as received; - is standard input.
    """
    settings = read_settings(os.environ)
    sources, secret_problems = inspect_sources(settings, os.environ)
    source = sources.get(name)
    if source is None:
        known_names = ", ".join(sources)
        raise SettingsError(f"there is no source {name!r} (there are: {known_names})")
    request = SignedRequest(
        {name.lower(): value for name, value in headers}, dict(query), _read_body(file)
    )
    explanation = explain_webhook(
        source, request, now_s=time.time(), deployment_filter=build_filter(settings)
    )
    click.echo(explanation.report, nl=False)
    for location in source.secret_locations:
        if location in secret_problems:
            problem = secret_problems[location]
            click.echo(f"{location} {problem}: its signatures cannot be verified here")
    return 0 if explanation.accepted else EXIT_FAILURE


@sources_commands.command("setup", epilog=EXIT_CODES)
@click.argument("name")
@_URL_OPTION
def setup_command(name: str, url: str | None) -> None:
    """Print how to set up the sender of a source or preset NAME."""
    settings = read_settings(os.environ)
    sources: dict[str, Source] = {}
    if settings.sources or settings.webhook_secret:
        sources, _ = inspect_sources(settings, os.environ)
    presets = read_presets()
    source = sources.get(name) or build_example_source(name, presets=presets)
    preset = source.preset or ""
    page = None if source.has_own_verify else read_setup_page(preset)
    if page is None:
        page = render_setup_page(source, is_configured=name in sources)
    base_url = url or local_receiver_url(settings)
    example_name = preset or source.name
    filled_page = fill_setup_page(
        page, preset=example_name, source_name=source.name, base_url=base_url
    )
    click.echo(filled_page, nl=False)


def _read_body(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
