"""What has to be pasted on the sender's side? A page for each, or what the preset itself tells."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from service.accept.sources import Source, SourceError, load_sources
from service.accept.tables import parse_toml, suggest
from service.operate.sources import describe_scheme, name_url

_EXAMPLE = "https://hooks.example.com"

# Where a sender does not tell: a constant, or a header that it can be made to send.
_WAYS_OUT = {
    "environment": "'production'",
    "application": "headers.x_application",
    "version": "headers.x_version",
}


def find_pages() -> dict[str, str]:
    """Read every page, by the name of its preset."""
    return {
        page.name.removesuffix(".md"): page.read_text(encoding="utf-8")
        for page in _find_folder().iterdir()
        if page.name.endswith(".md")
    }


def fill_page(page: str, *, preset: str, source_name: str, base_url: str) -> str:
    """Put a source's own address and name in the place of the example's."""
    return (
        page.replace(f"{_EXAMPLE}/webhooks/{preset}", f"{_EXAMPLE}/webhooks/{source_name}")
        .replace(_EXAMPLE, base_url.rstrip("/"))
        .replace(f'name = "{preset}"', f'name = "{source_name}"')
    )


def write_page(source: Source, *, about: str = "", is_there: bool = False) -> str:
    """Write what a source itself tells, where no page does.

    ``about`` is what else is known of its sender. A source that is there needs no lines of TOML.
    """
    ways = " or ".join(describe_scheme(scheme) for scheme in source.schemes)
    page = f"# {source.name}\n\n" + (f"{about}\n\n" if about else "")
    page += f"Let it post JSON to {name_url(source, _EXAMPLE)},\nverified by {ways}.\n"
    if is_there:
        return page
    lacking = [key for key in _WAYS_OUT if getattr(source.fields, key) is None]
    fields = ", ".join(f'{key} = "{_WAYS_OUT[key]}"' for key in lacking)
    more = f"fields = {{ {fields} }}  # the sender does not tell\n" if lacking else ""
    block = f"```toml\n{_write_block(source.name, source.preset)}{more}```\n"
    return f"{page}\nIn the file that ENRICHER_SOURCES names:\n\n{block}"


def find_about(preset: str, *, presets: str) -> str:
    """Give what stands above a preset that ships: which events, what its sender must be told."""
    found = re.search(rf"((?:^#.*\n)+)\[preset\.{re.escape(preset)}\]$", presets, re.MULTILINE)
    return re.sub(r"^# ?", "", found[1], flags=re.MULTILINE).rstrip() if found else ""


def is_as_its_page(source: Source, *, presets: str) -> bool:
    """Tell whether a source is verified as its preset says, and so as the page of this preset."""
    return source.schemes == make_example(source.preset or "", presets=presets).schemes


def make_example(preset: str, *, presets: str) -> Source:
    """Make the source that a preset that ships needs at least; raises SourceError."""
    known = parse_toml(presets, origin="presets")["preset"]
    if preset not in known:
        raise SourceError(f"there is no source and no preset {preset!r}{suggest(preset, known)}")
    if "outcome" not in known[preset]:
        told = "tells how a sender is verified, and a source of your own all else: outcome, fields"
        raise SourceError(f"the preset {preset!r} {told}")
    block = _write_block(preset, preset)
    return load_sources(block, presets=presets, read_secret=lambda _: "x")[preset]


def _find_folder() -> Traversable:
    """Find the pages: packed beside this file, or in a checkout where they are kept."""
    packed = files("service.operate").joinpath("senders")
    if packed.is_dir():
        return packed
    return Path(__file__).parents[2] / "deploy" / "senders"


def _write_block(name: str, preset: str | None) -> str:
    variable = f"{re.sub('[^A-Z0-9]', '_', name.upper())}_WEBHOOK_SECRET"
    return (
        f'[[source]]\nname = "{name}"\n'
        + (f'preset = "{preset}"\n' if preset else "")
        + f'secrets = ["env:{variable}"]\nproject = "default"\n'
    )
