"""Setup pages: what to configure at a sender, with the user's own URL and source name."""

import re
from collections.abc import Sequence

from service.accept.signatures import Token
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
_PERCENT_ENCODING_NOTE = """\
Percent-encode characters such as `&`, `#` and `%` of a secret in a URL. A secret from
`openssl rand -hex 32` or `openssl rand -base64 32` needs no encoding."""


def fill_setup_page(page: str, *, preset: str, source_name: str, base_url: str) -> str:
    """Return a page with a source's own URL and name instead of those of the example."""
    return (
        page.replace(
            f"{_EXAMPLE_BASE_URL}/webhooks/{preset}", f"{_EXAMPLE_BASE_URL}/webhooks/{source_name}"
        )
        .replace(_EXAMPLE_BASE_URL, base_url.rstrip("/"))
        .replace(f'name = "{preset}"', f'name = "{source_name}"')
    )


def render_setup_page(source: Source, *, is_configured: bool = False) -> str:
    """Return the setup page of a source whose preset has none.

    A source that is configured already needs no lines of TOML.
    """
    page = f"# {source.name}\n\n" + (f"{source.about}\n\n" if source.about else "")
    url = webhook_url(source, _EXAMPLE_BASE_URL)
    page += f"Configure it to post JSON to {url},\n{_render_verification(source)}"
    if is_configured:
        return page
    toml_block = _render_source_block(source.name, source.preset, _list_fallback_fields(source))
    return f"{page}\nIn the file that ENRICHER_SOURCES names:\n\n```toml\n{toml_block}```\n"


def _render_verification(source: Source) -> str:
    """Return how the webhooks of a source are verified: a sentence, or a list of schemes."""
    descriptions = [describe_scheme(scheme) for scheme in source.schemes]
    if len(descriptions) == 1:
        text = f"verified by {descriptions[0]}.\n"
    else:
        text = "verified in one of these ways:\n\n"
        text += "".join(f"- {description}\n" for description in descriptions)
    if any(isinstance(scheme, Token) and scheme.query for scheme in source.schemes):
        text += f"\n{_PERCENT_ENCODING_NOTE}\n"
    return text


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
    preset_fields = known_presets[preset].get("fields", {})
    missing_fields = [field for field in _FALLBACK_EXPRESSIONS if field not in preset_fields]
    toml_block = _render_source_block(preset, preset, missing_fields)
    return load_sources(toml_block, presets=presets, read_secret=lambda _: "x")[preset]


def _list_fallback_fields(source: Source) -> list[str]:
    """Return the fields of an example source that its preset lacks."""
    return [
        field
        for field, text in _FALLBACK_EXPRESSIONS.items()
        if (expression := getattr(source.fields, field)) is not None and expression.text == text
    ]


def _render_source_block(name: str, preset: str | None, fallback_fields: Sequence[str]) -> str:
    expressions = ", ".join(
        f'{field} = "{_FALLBACK_EXPRESSIONS[field]}"' for field in fallback_fields
    )
    variable = f"{re.sub('[^A-Z0-9]', '_', name.upper())}_WEBHOOK_SECRET"
    return (
        f'[[source]]\nname = "{name}"\n'
        + (f'preset = "{preset}"\n' if preset else "")
        + f'secrets = ["env:{variable}"]\nproject = "default"\n'
        + (
            f"fields = {{ {expressions} }}  # the sender does not send these\n"
            if expressions
            else ""
        )
    )
