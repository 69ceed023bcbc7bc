"""Where is the mistake in a file of sources? On the line that a person has to change."""

import re

import pytest

from service.accept.sources import SourceError, load_sources

WELL = """\
# ours
[preset.house]
verify = { token = "X-House" }
outcome = { path = "body.state", succeeded = ["ok"] }

[preset.house.fields]
version = "body.sha"

[[source]]
name = "github"
preset = "github"
secrets = ["env:SET"]

[[source]]
name = "house"
preset = "house"
secrets = [
  "env:SET",
  "file:/run/old",
]

[source.environments]
live = "production"
"""
VAULT = {"env:SET": "x", "file:/run/old": "y"}


def find_mistake(presets: str, old: str, new: str) -> str:
    """Load the file with one thing changed; give the complaint."""
    assert old in WELL
    with pytest.raises(SourceError) as caught:
        load_sources(
            WELL.replace(old, new),
            presets=presets,
            read_secret=VAULT.__getitem__,
            origin="etc/ours.toml",
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            'secrets = ["env:SET"]',
            'secret = ["env:SET"]',
            "12: source \"github\": secret: there is no such key; did you mean 'secrets'?",
        ),
        (
            '"env:SET",\n',
            '"env:GONE",\n',
            '18: source "house": secrets[0]: env:GONE is not set; set it, or take it out',
        ),
        ('name = "house"', 'name = "github"', '15: source "github": name: line 10 has the same; '),
        (
            'preset = "house"',
            'preset = "hose"',
            "16: source \"house\": preset: there is no 'hose'; ",
        ),
        ('name = "house"\n', "", "14: source null: name: give 1 to 64 letters"),
        (
            'live = "production"',
            "live = 1",
            '23: source "house": environments.live: Expected `str`',
        ),
        (
            "secrets = [\n",
            "secrets = 5\nproject = [\n",
            '17: source "house": secrets: Expected `arr',
        ),
        (
            '"body.sha"',
            '"body.[sha"',
            "7: source \"house\": fields.version: 'body.[sha' is not JMESPath",
        ),
        (
            "version =",
            "verzion =",
            '7: source "house": fields.verzion: there is no such key; did you',
        ),
        ("path =", "paht =", '4: source "house": outcome.paht: there is no such key; did you mean'),
        ("token =", "tokens =", '3: source "house": verify: say hmac = <header>'),
        (
            "[[source]]\nname",
            "[[sauce]]\nname",
            "9: sauce: there is no such key; did you mean 'sour",
        ),
    ],
)
def test_a_mistake_is_told_with_its_file_its_line_and_its_fix(
    presets: str, old: str, new: str, complaint: str
) -> None:
    """As a compiler does: file, line, what it is about, what to do."""
    assert find_mistake(presets, old, new).startswith(f"etc/ours.toml:{complaint}")


@pytest.mark.parametrize(
    ("old", "new", "line"), [('"body.sha"', '"body.sha', 7), ("[[so", "[[[s", 9)]
)
def test_what_is_not_toml_is_told_with_line_and_column(
    presets: str, old: str, new: str, line: int
) -> None:
    """As a compiler does."""
    complaint = find_mistake(presets, old, new)
    assert re.match(rf"etc/ours\.toml:{line}:\d+: this is not TOML: ", complaint)


def test_what_ends_too_early_is_told_with_the_last_line(presets: str) -> None:
    """Even where tomllib names none."""
    complaint = find_mistake(presets, 'live = "production"', "live = ")
    assert complaint.startswith("etc/ours.toml:23:")


def test_what_is_missing_is_missed_where_the_source_begins(presets: str) -> None:
    """The line to look at is the header of the source."""
    complaint = find_mistake(presets, 'secrets = ["env:SET"]', "")
    assert complaint.startswith('etc/ours.toml:9: source "github": secrets: there are none; add')


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("X"), "file:/run/old is not set; set it, or take it out"),
        (FileNotFoundError(2, "No such file", "/run/old"), "cannot be read: No such file; set it"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "bad"), "cannot be read: it is no UTF-8 text; set"),
    ],
)
def test_a_secret_that_cannot_be_had_is_told_with_the_reason(
    presets: str, error: Exception, reason: str
) -> None:
    """A file that is away is another mistake than a variable that is not set."""

    def read_secret(reference: str) -> str:
        if reference == "file:/run/old":
            raise error
        return "x"

    with pytest.raises(SourceError, match=reason) as caught:
        load_sources(WELL, presets=presets, read_secret=read_secret)
    assert str(caught.value).startswith('sources.toml:19: source "house": secrets[1]: file:/run/')


def test_several_sources_of_one_preset_differ_in_what_they_say_themselves(presets: str) -> None:
    """Two repositories, two secrets, two projects: two sources."""
    one = '[[source]]\nname = "{}"\npreset = "github"\nsecrets = ["{}"]\nproject = "{}"\n'
    text = one.format("web", "a", "front") + one.format("api", "b", "back")
    sources = load_sources(text, presets=presets, read_secret=VAULT.__getitem__)
    assert [(each.name, each.secrets, each.project) for each in sources.values()] == [
        ("web", ("a",), "front"),
        ("api", ("b",), "back"),
    ]
    assert sources["web"].schemes == sources["api"].schemes
