"""Where is the mistake in a file of sources? On the line that a person has to change."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.accept.sources import SourceError, load_sources

VALID_FILE = """\
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
SECRETS = {"env:SET": "x", "file:/run/old": "y"}


def error_after_change(presets: str, old: str, new: str) -> str:
    """Load the file with one thing changed; give the complaint."""
    assert old in VALID_FILE
    with pytest.raises(SourceError) as caught:
        load_sources(
            VALID_FILE.replace(old, new),
            presets=presets,
            read_secret=SECRETS.__getitem__,
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
            "[preset.house]\n",
            "[preset.house]\nverfy = 1\n",
            "3: preset.house.verfy: there is no such",
        ),
        (
            "[preset.house]\n",
            '[preset.house]\nname = "x"\n',
            "3: preset.house.name: there is no such",
        ),
        (
            "[preset.house]\n",
            '[preset.house]\npreset = "gihub"\n',
            "3: preset.house.preset: there is no 'gihub'; did you mean 'github'?",
        ),
        (
            'verify = { token = "X-House" }',
            'verify = [\n  { token = "X-House" },\n  { token = "X House" },\n]',
            '5: source "house": verify[1].token: this is no name of a header',
        ),
        (
            'live = "production"',
            'live = ""',
            '23: source "house": environments.live: give 1 to 256 characters, and no control',
        ),
        (
            'preset = "github"\n',
            'preset = "github"\nproject = "a\\n"\n',
            '12: source "github": project: give 1 to 256 characters, and no control',
        ),
        (
            'secrets = ["env:SET"]',
            'secrets = ["Env:SET"]',
            '12: source "github": secrets[0]: write env: and file: in small letters',
        ),
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
    assert error_after_change(presets, old, new).startswith(f"etc/ours.toml:{complaint}")


@pytest.mark.parametrize(
    ("old", "new", "line"), [('"body.sha"', '"body.sha', 7), ("[[so", "[[[s", 9)]
)
def test_what_is_not_toml_is_told_with_line_and_column(
    presets: str, old: str, new: str, line: int
) -> None:
    """As a compiler does."""
    complaint = error_after_change(presets, old, new)
    assert re.match(rf"etc/ours\.toml:{line}:\d+: this is not TOML: ", complaint)


@pytest.mark.parametrize("monster", ["9" * 5000, "[" * 5000 + "]" * 5000])
def test_what_no_reader_of_toml_can_hold_is_told_too(presets: str, monster: str) -> None:
    """It is a mistake in the file as any other: at SIGHUP the old sources must stay."""
    complaint = error_after_change(presets, "live =", f"dead = {monster}\nlive =")
    assert complaint.startswith("etc/ours.toml: this cannot be read: ")


def test_a_preset_may_build_on_another(presets: str) -> None:
    """What two sources of one sender share is written once; a mistake in it has its own line."""
    shared = """\
[preset.acme]
preset = "github"
when = { "body.action" = "created" }
fields = { version = "body.deployment.ref" }

[preset.acme-eu]
preset = "acme"
environments = { live = "eu" }

[[source]]
name = "web"
preset = "acme-eu"
secrets = ["env:SET"]
"""
    (web,) = load_sources(shared, presets=presets, read_secret=SECRETS.__getitem__).values()
    texts = [condition.expression.text for condition in web.when]
    assert texts == ["headers.x_github_event", "body.action"]
    assert (web.environments, str(web.fields.version)) == (
        {"live": "eu"},
        "Expression('body.deployment.ref')",
    )
    for old, new, line in (
        ('"acme"\n', '"acme-eu"\n', "7: preset.acme-eu.preset: there is no 'acme-eu'"),
        ('= "github"', '= "gihub"', "2: preset.acme.preset: there is no 'gihub'; did you mean"),
        # a circle
        ('= "github"', '= "acme-eu"', "7: preset.acme-eu.preset: there is no 'acme'"),
        ("deployment.ref", "deployment.", '4: source "web": fields.version: '),
    ):
        with pytest.raises(SourceError, match=rf"^sources\.toml:{re.escape(line)}"):
            load_sources(shared.replace(old, new), presets=presets, read_secret=SECRETS.__getitem__)


def test_a_preset_of_the_file_may_build_on_the_one_of_its_name_that_ships(presets: str) -> None:
    """GitHub's, but for all sources of this file in another way."""
    text = '[preset.github]\npreset = "github"\ndedupe = "body.id"\n' + VALID_FILE
    github = load_sources(text, presets=presets, read_secret=SECRETS.__getitem__)["github"]
    assert str(github.dedupe) == "Expression('body.id')"
    assert github.outcome.succeeded == ("success",)


@given(data=st.data())
def test_nothing_that_a_person_can_write_ends_in_another_exception(
    presets: str, data: st.DataObject
) -> None:
    """A file garbled in a few places loads, or is a mistake with a file, a line and a sentence."""
    text = VALID_FILE
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        new = data.draw(
            st.text(max_size=3)
            | st.sampled_from(
                ["[", "]]", "{", "}", "=", '"', ".", "\n", "5", "true", "[[source]]\n"]
            )
            | st.sampled_from(VALID_FILE.splitlines(keepends=True))
        )
        text = text[:start] + new + text[end:]
    try:
        load_sources(text, presets=presets, read_secret=SECRETS.__getitem__, origin="f.toml")
    except SourceError as error:
        assert re.match(r"f\.toml:\d+:|f\.toml: there is no source", str(error))  # noqa: PT017


def test_what_ends_too_early_is_told_with_the_last_line(presets: str) -> None:
    """Even where tomllib names none."""
    complaint = error_after_change(presets, 'live = "production"', "live = ")
    assert complaint.startswith("etc/ours.toml:23:")


def test_what_is_missing_is_missed_where_the_source_begins(presets: str) -> None:
    """The line to look at is the header of the source."""
    complaint = error_after_change(presets, 'secrets = ["env:SET"]', "")
    assert complaint.startswith('etc/ours.toml:9: source "github": secrets: there are none; add')


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("X"), "file:/run/old is not set; set it, or take it out"),
        (FileNotFoundError(2, "No such file", "/run/old"), "cannot be read: No such file; set it"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "bad"), "cannot be read: it is no UTF-8 text; set"),
        (ValueError("embedded null byte"), "cannot be read: embedded null byte; set it"),
        (RuntimeError("no home directory"), "cannot be read: no home directory; set it"),
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
        load_sources(VALID_FILE, presets=presets, read_secret=read_secret)
    assert str(caught.value).startswith('sources.toml:19: source "house": secrets[1]: file:/run/')


def test_several_sources_of_one_preset_differ_in_what_they_say_themselves(presets: str) -> None:
    """Two repositories, two secrets, two projects: two sources."""
    one = '[[source]]\nname = "{}"\npreset = "github"\nsecrets = ["{}"]\nproject = "{}"\n'
    text = one.format("web", "a", "front") + one.format("api", "b", "back")
    sources = load_sources(text, presets=presets, read_secret=SECRETS.__getitem__)
    assert [(each.name, each.secrets, each.project) for each in sources.values()] == [
        ("web", ("a",), "front"),
        ("api", ("b",), "back"),
    ]
    assert sources["web"].schemes == sources["api"].schemes
