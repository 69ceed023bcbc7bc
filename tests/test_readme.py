"""Does the README tell the truth about the settings, the commands and the house?"""

import re
from pathlib import Path

from service.__main__ import _make_parser
from service.settings import describe_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_table_of_settings_is_the_struct() -> None:
    """Every setting stands there with its default and meaning, in the struct's order."""
    expected = [
        f"| `{name}` | {f'`{value}`' if value else ''} | {meaning} |"
        for name, value, meaning in describe_settings()
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
    choices = next(action.choices for action in _make_parser()._actions if action.choices)
    assert named == set(choices)


def test_its_links_lead_somewhere() -> None:
    """Every relative link is a file or a folder of this repository."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
