"""Setup pages: what to configure at a sender, with the user's own URL and source name."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from service.accept.sources import Source, SourceError, load_sources
from service.accept.toml_tables import format_suggestion, parse_toml
from service.cli.source_text import describe_scheme, webhook_url

_EXAMPLE_BASE_URL = "https://hooks.example.com"

# For a field that the sender does not send: a constant, or a header that it can be configured to.
_FALLBACK_EXPRESSIONS = {
    "environment": "'production'",
    "application": "headers.x_application",
    "version": "headers.x_version",
}


def read_setup_pages() -> dict[str, str]:
    """Return the text of every page by the name of its preset."""
    return {
        page.name.removesuffix(".md"): page.read_text(encoding="utf-8")
        for page in _setup_pages_folder().iterdir()
        if page.name.endswith(".md")
    }


def fill_setup_page(page: str, *, preset: str, source_name: str, base_url: str) -> str:
    """Return a page with a source's own URL and name instead of those of the example."""
    return (
        page.replace(
            f"{_EXAMPLE_BASE_URL}/webhooks/{preset}", f"{_EXAMPLE_BASE_URL}/webhooks/{source_name}"
        )
        .replace(_EXAMPLE_BASE_URL, base_url.rstrip("/"))
        .replace(f'name = "{preset}"', f'name = "{source_name}"')
    )


def render_setup_page(
    source: Source, *, preset_comment: str = "", is_configured: bool = False
) -> str:
    """Return a page for a source whose preset has none.

    ``preset_comment`` is what the file of the preset says of the sender. A source that is
    configured needs no lines of TOML.
    """
    schemes_text = " or ".join(describe_scheme(scheme) for scheme in source.schemes)
    page = f"# {source.name}\n\n" + (f"{preset_comment}\n\n" if preset_comment else "")
    url = webhook_url(source, _EXAMPLE_BASE_URL)
    page += f"Configure it to post JSON to {url},\nverified by {schemes_text}.\n"
    if is_configured:
        return page
    missing_fields = [
        field for field in _FALLBACK_EXPRESSIONS if getattr(source.fields, field) is None
    ]
    expressions = ", ".join(
        f'{field} = "{_FALLBACK_EXPRESSIONS[field]}"' for field in missing_fields
    )
    fields_line = (
        f"fields = {{ {expressions} }}  # the sender does not send these\n"
        if missing_fields
        else ""
    )
    toml_block = f"```toml\n{_render_source_block(source.name, source.preset)}{fields_line}```\n"
    return f"{page}\nIn the file that ENRICHER_SOURCES names:\n\n{toml_block}"


def parse_preset_comment(preset: str, *, presets: str) -> str:
    """Return the comment above a shipped preset: its events, and how to configure its sender."""
    match = re.search(rf"((?:^#.*\n)+)\[preset\.{re.escape(preset)}\]$", presets, re.MULTILINE)
    return re.sub(r"^# ?", "", match[1], flags=re.MULTILINE).rstrip() if match else ""


def is_verified_as_preset(source: Source, *, presets: str) -> bool:
    """Return whether a source is verified as its preset, and so as the page of the preset says."""
    return source.schemes == build_example_source(source.preset or "", presets=presets).schemes


def build_example_source(preset: str, *, presets: str) -> Source:
    """Return the smallest source that a shipped preset allows; raises SourceError."""
    known_presets = parse_toml(presets, origin="presets")["preset"]
    if preset not in known_presets:
        raise SourceError(
            f"there is no source and no preset {preset!r}{format_suggestion(preset, known_presets)}"
        )
    if "outcome" not in known_presets[preset]:
        reason = "only verifies; write a source with an outcome and fields that uses it"
        raise SourceError(f"the preset {preset!r} {reason}")
    toml_block = _render_source_block(preset, preset)
    return load_sources(toml_block, presets=presets, read_secret=lambda _: "x")[preset]


def _setup_pages_folder() -> Traversable:
    """Return the folder of pages: packaged beside this file, or deploy/senders of a checkout."""
    packaged = files("service.cli").joinpath("senders")
    if packaged.is_dir():
        return packaged
    return Path(__file__).parents[2] / "deploy" / "senders"


def _render_source_block(name: str, preset: str | None) -> str:
    variable = f"{re.sub('[^A-Z0-9]', '_', name.upper())}_WEBHOOK_SECRET"
    return (
        f'[[source]]\nname = "{name}"\n'
        + (f'preset = "{preset}"\n' if preset else "")
        + f'secrets = ["env:{variable}"]\nproject = "default"\n'
    )
