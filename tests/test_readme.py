"""Does the README tell the truth about the settings, the commands and the house?"""

import hmac
import json
import re
import tomllib
from pathlib import Path

from service.accept.mapping import DeploymentCompleted
from service.accept.signatures import SignedRequest
from service.accept.source_files import read_presets
from service.accept.sources import load_sources
from service.cli.main import _build_parser
from service.cli.sources import explain_webhook
from service.settings import list_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_table_of_settings_is_the_struct() -> None:
    """Every setting stands there with its default and meaning, in the struct's order."""
    expected = [
        f"| `{name}` | {f'`{value}`' if value else ''} | {meaning} |"
        for name, value, meaning in list_settings()
    ]
    rows = [line for line in README.splitlines() if re.match(r"\| `(ENRICHER|LAUNCHDARKLY)_", line)]
    assert rows == expected


def test_it_names_every_command() -> None:
    """The table of commands is the parser's."""
    section = README.split("## The command line")[1].split("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    choices = next(action.choices for action in _build_parser()._actions if action.choices)
    assert named == set(choices)


def test_a_sender_that_nobody_knew_is_the_lines_shown() -> None:
    """They load, judge a signed webhook, and a trial prints what the README says that it prints."""
    section = README.split("**A sender that we do not know**")[1]
    text = section.split("```toml\n")[1].split("```")[0]
    (source,) = load_sources(text, presets=read_presets(), read_secret=lambda _: "x").values()
    body = json.dumps(
        {
            "id": 17,
            "event": "rollout",
            "result": "ok",
            "service": "web",
            "image": {"tag": "1.4.0"},
            "stage": "production",
            "at": "2026-11-24T12:00:00Z",
        }
    ).encode()
    signature = f"sha256={hmac.new(b'x', body, 'sha256').hexdigest()}"
    signed = explain_webhook(
        source, SignedRequest({"x-shipit-signature": signature}, {}, body), now_s=0
    )
    assert signed.genuine
    assert isinstance(signed.events[0], DeploymentCompleted)
    shown = section.split("sources try shipit body.json\n")[1].split("```")[0]
    assert explain_webhook(source, SignedRequest({}, {}, body), now_s=0).report == shown


def test_it_lists_the_presets_that_there_are() -> None:
    """No more and no fewer."""
    section = README.split("[presets](service/accept/presets) know")[1].split(". What to paste")[0]
    known = tomllib.loads(read_presets())["preset"]
    assert re.findall(r"`([\w-]+)`", section) == sorted(known, key=section.index)
    assert len(known) == 24  # "Twenty-four"


def test_its_links_lead_somewhere() -> None:
    """Every relative link is a file or a folder of this repository."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
