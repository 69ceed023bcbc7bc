"""Errors in a file of sources: each names the file, the source, the key and the fix."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.accept.mapping import Ignored, expression_input, parse_webhook
from service.accept.payload import Payload
from service.accept.signatures import SignedRequest
from service.accept.sources import EXPRESSION_ROOTS, SourceError, load_sources

VALID_FILE = """\
# ours
[preset.house]
verify = { token = "X-House" }
outcome = { path = "body.state", succeeded = ["ok"] }

[preset.house.fields]
version = "body.sha"
id = "body.id"

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
    """Load the file with one change; return the error message."""
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
    ("old", "new", "message"),
    [
        (
            'secrets = ["env:SET"]',
            'secret = ["env:SET"]',
            "source \"github\": secret: there is no such key; did you mean 'secrets'?",
        ),
        (
            '"env:SET",\n',
            '"env:GONE",\n',
            'source "house": secrets[0]: env:GONE is not set; set it, or remove it',
        ),
        (
            'name = "house"',
            'name = "github"',
            'source "github": name: another source has the same name; ',
        ),
        (
            'preset = "house"',
            'preset = "hose"',
            "source \"house\": preset: there is no 'hose'; ",
        ),
        ('name = "house"\n', "", "source null: name: use 1 to 64 letters"),
        (
            'live = "production"',
            "live = 1",
            'source "house": environments.live: Expected `str`',
        ),
        (
            "secrets = [\n",
            "secrets = 5\nproject = [\n",
            'source "house": secrets: Expected `arr',
        ),
        (
            '"body.sha"',
            '"body.[sha"',
            "source \"house\": fields.version: 'body.[sha' is not JMESPath",
        ),
        (
            "version =",
            "verzion =",
            'source "house": fields.verzion: there is no such key; did you',
        ),
        ("path =", "paht =", 'source "house": outcome.paht: there is no such key; did you mean'),
        ("token =", "tokens =", 'source "house": verify: set hmac = <header>'),
        (
            "[preset.house]\n",
            "[preset.house]\nverfy = 1\n",
            "preset.house.verfy: there is no such",
        ),
        (
            "[preset.house]\n",
            '[preset.house]\nname = "x"\n',
            "preset.house.name: there is no such",
        ),
        (
            "[preset.house]\n",
            '[preset.house]\npreset = "gihub"\n',
            "preset.house.preset: there is no 'gihub'; did you mean 'github'?",
        ),
        (
            'verify = { token = "X-House" }',
            'verify = [\n  { token = "X-House" },\n  { token = "X House" },\n]',
            'source "house": verify[1].token: this is not the name of a header',
        ),
        (
            'live = "production"',
            'live = ""',
            'source "house": environments.live: use 1 to 256 characters, and no control',
        ),
        (
            'preset = "github"\n',
            'preset = "github"\nproject = "a\\n"\n',
            'source "github": project: use 1 to 256 characters, and no control',
        ),
        (
            'secrets = ["env:SET"]',
            'secrets = ["Env:SET"]',
            'source "github": secrets[0]: write env: and file: in lower case',
        ),
        (
            "[[source]]\nname",
            "[[sauce]]\nname",
            "sauce: there is no such key; did you mean 'sour",
        ),
    ],
)
def test_mistake_in_source_is_reported_with_file_key_and_fix(
    presets: str, old: str, new: str, message: str
) -> None:
    """The message has the file, the source, the key, and what to do."""
    assert error_after_change(presets, old, new).startswith(f"etc/ours.toml: {message}")


@pytest.mark.parametrize(
    ("old", "new", "line"), [('"body.sha"', '"body.sha', 7), ("[[so", "[[[s", 10)]
)
def test_text_that_is_not_toml_is_reported_with_line_and_column(
    presets: str, old: str, new: str, line: int
) -> None:
    """The message has the position that tomllib gives."""
    message = error_after_change(presets, old, new)
    assert re.match(rf"etc/ours\.toml:{line}:\d+: this is not TOML: ", message)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000 + "]" * 5000])
def test_value_too_large_for_tomllib_is_a_source_error(presets: str, value: str) -> None:
    """At SIGHUP the previous sources must stay, as with any other mistake."""
    message = error_after_change(presets, "live =", f"dead = {value}\nlive =")
    assert message.startswith("etc/ours.toml: this cannot be read: ")


def test_preset_that_names_a_preset_is_merged_with_it(presets: str) -> None:
    """Two sources of one sender share a preset; a mistake in it is reported with its key."""
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
    for old, new, message in (
        ('"acme"\n', '"acme-eu"\n', "preset.acme-eu.preset: there is no 'acme-eu'"),
        ('= "github"', '= "gihub"', "preset.acme.preset: there is no 'gihub'; did you mean"),
        # the two presets name each other
        ('= "github"', '= "acme-eu"', "preset.acme-eu.preset: there is no 'acme'"),
        ("deployment.ref", "deployment.", 'source "web": fields.version: '),
    ):
        with pytest.raises(SourceError, match=rf"^sources\.toml: {re.escape(message)}"):
            load_sources(shared.replace(old, new), presets=presets, read_secret=SECRETS.__getitem__)


def test_preset_of_the_file_may_extend_the_shipped_preset_of_its_name(presets: str) -> None:
    """All sources of this file use the changed preset."""
    text = '[preset.github]\npreset = "github"\ndedupe = "body.id"\n' + VALID_FILE
    github = load_sources(text, presets=presets, read_secret=SECRETS.__getitem__)["github"]
    assert str(github.dedupe) == "Expression('body.id')"
    assert github.outcome.succeeded == ("success",)


@given(data=st.data())
def test_garbled_file_loads_or_raises_source_error(presets: str, data: st.DataObject) -> None:
    """No text that a person can write raises another exception."""
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
        assert re.match(r"f\.toml: .|f\.toml:\d+:\d+: .", str(error))  # noqa: PT017


def test_truncated_toml_is_reported_with_its_last_line(presets: str) -> None:
    """For such a text, tomllib gives no position."""
    message = error_after_change(presets, 'live = "production"', "live = ")
    assert message.startswith("etc/ours.toml:24:")


def test_missing_key_is_reported_with_its_source(presets: str) -> None:
    """The message names the key and the value to add."""
    message = error_after_change(presets, 'secrets = ["env:SET"]', "")
    assert message.startswith('etc/ours.toml: source "github": secrets: there are none; add')


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("X"), "file:/run/old is not set; set it, or remove it"),
        (FileNotFoundError(2, "No such file", "/run/old"), "cannot be read: No such file; set it"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "bad"), "it is not UTF-8 text; set it"),
        (ValueError("embedded null byte"), "cannot be read: embedded null byte; set it"),
        (RuntimeError("no home directory"), "cannot be read: no home directory; set it"),
    ],
)
def test_unreadable_secret_is_reported_with_the_reason(
    presets: str, error: Exception, reason: str
) -> None:
    """A missing file and an unset variable are different mistakes."""

    def read_secret(reference: str) -> str:
        if reference == "file:/run/old":
            raise error
        return "x"

    with pytest.raises(SourceError, match=reason) as caught:
        load_sources(VALID_FILE, presets=presets, read_secret=read_secret)
    assert str(caught.value).startswith('sources.toml: source "house": secrets[1]: file:/run/')


def test_sources_of_one_preset_keep_their_own_secrets_and_projects(presets: str) -> None:
    """Two repositories with two secrets and two projects are two sources."""
    template = '[[source]]\nname = "{}"\npreset = "github"\nsecrets = ["{}"]\nproject = "{}"\n'
    text = template.format("web", "a", "front") + template.format("api", "b", "back")
    sources = load_sources(text, presets=presets, read_secret=SECRETS.__getitem__)
    assert [(source.name, source.secrets, source.project) for source in sources.values()] == [
        ("web", ("a",), "front"),
        ("api", ("b",), "back"),
    ]
    assert sources["web"].schemes == sources["api"].schemes


SOURCE_HEAD = '[[source]]\nname = "s"\nverify = "none"\n'
USABLE_PROJECT = 'project = "default"\n'
USABLE_OUTCOME = 'outcome = { path = "body.state", succeeded = ["ok"], failed = ["ko"] }\n'
USABLE_FIELDS = (
    'fields = { environment = "body.stage", application = "body.app", version = "body.sha" }\n'
)
USABLE_SOURCE = SOURCE_HEAD + USABLE_PROJECT + USABLE_OUTCOME + USABLE_FIELDS


def error_of_source(presets: str, text: str) -> str:
    """Load a file that has a mistake; return the error message."""
    with pytest.raises(SourceError) as caught:
        load_sources(text, presets=presets, read_secret=str)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            USABLE_PROJECT,
            USABLE_PROJECT + 'when = { action = "completed" }\n',
            (
                "when.action: an expression reads body, headers, query or ce, not 'action'; "
                "write body.action"
            ),
        ),
        (
            USABLE_PROJECT,
            USABLE_PROJECT + 'when = { "body.a && match(\'x\', action)" = "completed" }\n',
            "not 'action'; write body.action",
        ),
        (
            USABLE_PROJECT,
            USABLE_PROJECT + 'when = { \'"body.action"\' = "completed" }\n',
            "not 'body.action'; write body.action without the inner quotes",
        ),
        (
            USABLE_PROJECT,
            USABLE_PROJECT + 'when = { "header.x_event" = "deploy" }\n',
            "not 'header'; write headers or body.header",
        ),
        (
            USABLE_PROJECT,
            USABLE_PROJECT + 'when = { \'"detail-type"\' = "deploy" }\n',
            "not 'detail-type'; write body.\"detail-type\"",
        ),
        (
            "body.app",
            "app",
            (
                "fields.application: an expression reads body, headers, query or ce, not 'app'; "
                "write body.app or \"'app'\" for this text itself"
            ),
        ),
        ("body.app", "body.app || app.name", "fields.application: an expression reads body"),
        ("body.app", "join('/', [body.team, app])", "not 'app'; write body.app or"),
        ("body.app", "body.{a: app}.a && sha", "not 'sha'; write body.sha or"),
        ("body.state", "state", "outcome.path: an expression reads body, headers, query or ce"),
        (
            USABLE_PROJECT,
            USABLE_PROJECT + 'dedupe = "id"\n',
            "dedupe: an expression reads body, headers, query or ce, not 'id'; write body.id",
        ),
    ],
)
def test_expression_that_reads_no_part_of_a_webhook_is_refused(
    presets: str, old: str, new: str, message: str
) -> None:
    """Such a name gives null for every webhook. The message says what to write."""
    error = error_of_source(presets, USABLE_SOURCE.replace(old, new))
    assert error.startswith('sources.toml: source "s": ')
    assert message in error


@pytest.mark.parametrize(
    "expression",
    [
        "body",
        "'production'",
        "body.b | c.d || e",
        "(body.b || body).c",
        "body.a[?b=='x'].c | [0]",
        "body.list[].{x: name} | [?x].x | [0]",
        "sort_by(body.list, &at)[-1].name",
        "body.*.name | [0]",
        "json(body.text).name",
        "headers.{name: x_stage}.name",
        "@.body.name",
        "ce.type || query.type",
        '`{"name": 1}`.name',
    ],
)
def test_expression_that_reads_parts_of_a_webhook_is_accepted(
    presets: str, expression: str
) -> None:
    """Names inside a value are not names of parts."""
    text = USABLE_SOURCE.replace('"body.app"', f"'''{expression}'''")
    assert load_sources(text, presets=presets, read_secret=str)["s"].fields.application is not None


def test_parts_of_a_webhook_are_those_that_expressions_are_evaluated_over() -> None:
    """A part that is added to one must be added to the other."""
    inputs = expression_input(SignedRequest({}, {}, b""), Payload(b"", {}))
    assert inputs.keys() == set(EXPRESSION_ROOTS)


@pytest.mark.parametrize(
    "expression", [" || ".join(["body.a"] * 3000), " | ".join(["body"] * 3000)]
)
def test_expression_that_is_nested_too_deeply_is_refused(presets: str, expression: str) -> None:
    """The error is one of the file, like any other mistake."""
    error = error_of_source(presets, USABLE_SOURCE.replace("body.app", expression))
    assert 'source "s": fields.application: the expression is nested too deeply' in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SOURCE_HEAD + USABLE_OUTCOME + USABLE_FIELDS,
            (
                'no webhook can name the project of its deployment; add project = "<key>", '
                "or add id to the fields"
            ),
        ),
        (
            USABLE_SOURCE.replace('environment = "body.stage", ', ""),
            (
                "no webhook can name the environment of its deployment; add fields = "
                '{ environment = "<expression>" }, or add id to the fields'
            ),
        ),
        (
            USABLE_SOURCE.replace(', version = "body.sha"', ""),
            "no webhook can name the version of its deployment; ",
        ),
        (
            USABLE_SOURCE.replace('application = "body.app", ', ""),
            "no webhook can name the application of its deployment; ",
        ),
        (
            SOURCE_HEAD + USABLE_OUTCOME,
            (
                "no webhook can name the project, environment, application, version of its "
                'deployment; add project = "<key>" and fields = { environment = "<expression>", '
            ),
        ),
        (
            SOURCE_HEAD + 'preset = "circleci"\nproject = "default"\n',
            "no webhook can name the environment of its deployment; ",
        ),
        (
            SOURCE_HEAD + 'environments = { live = "production" }\n' + USABLE_OUTCOME,
            "no webhook can name the project, environment, application, version of its ",
        ),
    ],
)
def test_source_that_cannot_identify_a_deployment_is_refused(
    presets: str, text: str, message: str
) -> None:
    """Every webhook would be parked. The message says what to add."""
    assert error_of_source(presets, text).startswith(f'sources.toml: source "s": {message}')


@pytest.mark.parametrize(
    "fields",
    [
        'fields = { id = "body.id" }',
        USABLE_FIELDS.replace("{", '{ project = "body.project", '),
    ],
)
def test_source_that_can_identify_a_deployment_is_accepted(presets: str, fields: str) -> None:
    """An id is enough, and so are the four keys."""
    text = SOURCE_HEAD + USABLE_OUTCOME + fields
    assert list(load_sources(text, presets=presets, read_secret=str)) == ["s"]


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (
            'path = "body.state", succeeded = ["ok", "done"], failed = ["ko", "done"]',
            'outcome.failed: "done" is in succeeded too; remove it from one of the two',
        ),
        (
            'path = "body.code", succeeded = [0], failed = [1, 0.0]',
            "outcome.failed: 0.0 is in succeeded too; remove it from one of the two",
        ),
        (
            'path = "body.state"',
            'outcome: no webhook can end a deployment; add succeeded = ["<value>"] or failed',
        ),
        ('path = "body.state", succeeded = []', "outcome: no webhook can end a deployment; add"),
        ('path = "body.state", started = ["run"]', "outcome: no webhook can end a deployment;"),
        (
            'path = "\'body.state\'", succeeded = ["ok"]',
            (
                "outcome.path: 'body.state' is the same for every webhook, and is none of the "
                "values; write an expression such as body.state"
            ),
        ),
    ],
)
def test_outcome_that_no_webhook_can_have_is_refused(
    presets: str, outcome: str, message: str
) -> None:
    """Every webhook would be ignored, or one list would hide the other."""
    text = USABLE_SOURCE.replace(USABLE_OUTCOME, f"outcome = {{ {outcome} }}\n")
    assert error_of_source(presets, text).startswith(f'sources.toml: source "s": {message}')


@pytest.mark.parametrize(
    "outcome",
    [
        'path = "body.code", succeeded = [1, "true"], failed = [true, "1"]',
        'path = "body.state", failed = ["ko"]',
        'path = "\'sent only after a success\'", succeeded = ["sent only after a success"]',
    ],
)
def test_outcome_that_a_webhook_can_have_is_accepted(presets: str, outcome: str) -> None:
    """One list is enough, and values of two types are not equal."""
    text = USABLE_SOURCE.replace(USABLE_OUTCOME, f"outcome = {{ {outcome} }}\n")
    assert list(load_sources(text, presets=presets, read_secret=str)) == ["s"]


def test_outcome_with_two_empty_lists_ignores_every_webhook(presets: str) -> None:
    """The lists are written out: this is on purpose, and needs no fields."""
    text = SOURCE_HEAD + 'outcome = { path = "body.kind", succeeded = [], failed = [] }\n'
    source = load_sources(text, presets=presets, read_secret=str)["s"]
    assert isinstance(parse_webhook(source, SignedRequest({}, {}, b'{"kind": "x"}')), Ignored)


def test_condition_that_no_webhook_can_meet_is_refused(presets: str) -> None:
    """A text in single quotes stands for itself."""
    condition = 'when = { "\'body.action\'" = "completed" }\n'
    error = error_of_source(presets, USABLE_SOURCE + condition)
    assert "'body.action' is the same for every webhook, and is not what is required; " in error
    assert load_sources(
        USABLE_SOURCE + 'when = { "\'on\'" = "/o/" }\n', presets=presets, read_secret=str
    )
