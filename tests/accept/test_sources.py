"""Sources from TOML: their values, and the error for each mistake."""

import re
import tomllib

import msgspec
import pytest

from service.accept.expressions import Expression
from service.accept.signatures import STANDARD_WEBHOOKS, Ed25519, Hmac, Token, Unverified
from service.accept.sources import Source, SourceError, load_sources, native_source
from tests.accept.sample_webhooks import REQUIRED_FIELDS

CUSTOM = """
[[source]]
name = "custom"
secrets = ["plain", "env:NEW", "file:/run/secrets/old"]
verify = [{ hmac = "X-Sig", items = ",", field = "v1", tolerance = 1 }, { query = "token" }]
when = { "body.kind" = ["deploy", "/^release-/", "/^v(x)?/", "/on/"], "body.dry" = false }
outcome = { path = "body.state", succeeded = ["ok", 0], failed = ["ko"] }
dedupe = "body.id"
project = "default"
[source.fields]
id = "body.deployment"
application = "body.app"
""".replace(", tolerance = 1", "")

ASYMMETRIC = Ed25519(
    header="webhook-signature",
    items=" ",
    sep=",",
    field="v1a",
    signed="{webhook-id}.{webhook-timestamp}.{body}",
    timestamp="webhook-timestamp",
)
# Standard Webhooks, and the same headers under Svix's names.
BOTH_NAMES = (
    STANDARD_WEBHOOKS,
    ASYMMETRIC,
    *(
        msgspec.structs.replace(
            scheme,
            header="svix-signature",
            signed="{svix-id}.{svix-timestamp}.{body}",
            timestamp="svix-timestamp",
        )
        for scheme in (STANDARD_WEBHOOKS, ASYMMETRIC)
    ),
)
SECRETS = {"env:NEW": "newer", "env:EMPTY": "", "file:/run/secrets/old": "older\r\n"}


def load_from_text(text: str, presets: str) -> dict[str, Source]:
    """Load sources with the secrets of SECRETS."""
    return load_sources(text, presets=presets, read_secret=SECRETS.__getitem__)


def source_toml(extra_toml: str, *, name: str = "s", preset: str = 'preset = "github"') -> str:
    """Return the TOML of one source."""
    return f'[[source]]\nname = "{name}"\n{preset}\n{extra_toml}\n'


def test_source_has_every_key_of_its_table(presets: str) -> None:
    """Every key of the format, without a preset."""
    source = load_from_text(CUSTOM, presets)["custom"]
    assert source.schemes == (Hmac(header="X-Sig", items=",", field="v1"), Token(query="token"))
    assert source.secrets == ("plain", "newer", "older")
    assert (source.preset, source.project, source.strict) == (None, "default", False)
    assert (source.outcome.succeeded, source.outcome.failed) == (("ok", 0), ("ko",))
    texts = [condition.expression.text for condition in source.when]
    assert texts == ["body.kind", "body.dry"]
    assert isinstance(source.dedupe, Expression)
    assert isinstance(source.fields.application, Expression)
    assert source.fields.version is None


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        ("deploy", True),
        ("v1", True),
        ("soon", True),
        ("release-1", True),
        ("a release-1", False),
        (None, False),
        (["deploy"], False),
    ],
)
def test_condition_holds_for_its_values_and_regexes(
    presets: str, kind: object, *, holds: bool
) -> None:
    """A value must be equal, a regex must be found."""
    condition = load_from_text(CUSTOM, presets)["custom"].when[0]
    assert condition.is_met({"body": {"kind": kind}}) is holds


def test_true_does_not_equal_one(presets: str) -> None:
    """JSON distinguishes booleans from numbers; so do conditions and outcomes."""
    source = load_from_text(CUSTOM, presets)["custom"]
    assert source.when[1].is_met({"body": {"dry": False}})
    assert not source.when[1].is_met({"body": {"dry": 0}})
    assert [source.outcome.decide(value) for value in (0, 0.0, False)] == ["succeeded"] * 2 + [None]


def test_source_overrides_its_preset(presets: str) -> None:
    """`when` and `fields` key by key, anything else as a whole."""
    text = source_toml("""
        secrets = ["x"]
        dedupe = "body.id"
        verify = { token = "X-Token" }
        when = { "body.action" = "created" }
        fields = { version = "body.deployment.ref" }
        """)
    source = load_from_text(text, presets)["s"]
    assert source.schemes == (Token(header="X-Token"),)
    assert [condition.expression.text for condition in source.when] == [
        "headers.x_github_event",
        "body.action",
    ]
    assert source.dedupe is not None
    assert source.dedupe.text == "body.id"
    assert source.fields.version is not None
    assert source.fields.version.text == "body.deployment.ref"
    assert source.fields.application is not None
    assert source.outcome.succeeded == ("success",)


def test_file_may_define_presets(presets: str) -> None:
    """A preset is written like a source."""
    preset = '[preset.custom]\nverify = "standard-webhooks"\nfields = { id = "body.id" }\n'
    preset += 'outcome = { path = "body.x", failed = ["ko"] }\n'
    text = preset + source_toml('secrets = ["x"]', preset='preset = "custom"')
    assert load_from_text(text, presets)["s"].schemes == BOTH_NAMES


def test_verify_may_name_a_preset_but_not_a_cycle(presets: str) -> None:
    """The schemes of any preset can be used by its name."""
    source = load_from_text(source_toml('verify = "native"\nsecrets = ["x"]'), presets)["s"]
    bearer = Token(header="Authorization", scheme="Bearer")
    assert source.schemes == (*BOTH_NAMES, bearer)
    circle = '[preset.a]\nverify = "b"\n[preset.b]\nverify = "a"\n'
    with pytest.raises(SourceError, match="verify: there is no preset"):
        load_from_text(circle + source_toml('verify = "a"'), presets)


def test_native_source_accepts_a_signature_or_a_token(presets: str) -> None:
    """The secrets are used unchanged, even if they look like references."""
    source = native_source(["env:not a reference", "whsec_AAAA"], presets=presets)
    bearer = Token(header="Authorization", scheme="Bearer")
    assert source.schemes == (*BOTH_NAMES, bearer)
    assert source.secrets == ("env:not a reference", "whsec_AAAA")
    assert (source.name, source.strict) == ("native", True)
    for secrets, problem in (([], "secrets: there are none"), (["whsec_"], "_SECRET is empty")):
        with pytest.raises(SourceError, match=problem):
            native_source(secrets, presets=presets)


def test_every_shipped_preset_makes_a_source(presets: str) -> None:
    """Except the one that only describes signatures."""
    names = tomllib.loads(presets)["preset"].keys() - {"standard-webhooks"}
    assert names >= {"native", "github"}
    for name in names:
        extra_toml = 'secrets = ["x"]\nproject = "default"\n'
        extra_toml += f"[source.fields]\n{REQUIRED_FIELDS.get(name, '')}"
        text = source_toml(extra_toml, preset=f'preset = "{name}"')
        assert load_from_text(text, presets)["s"].preset == name


def test_verify_none_needs_no_secret(presets: str) -> None:
    """It must be written out."""
    assert load_from_text(source_toml('verify = "none"'), presets)["s"].schemes == (Unverified(),)


def test_secrets_are_not_in_repr_or_errors(presets: str) -> None:
    """Neither a source nor an error about its secrets shows them."""
    shown = repr(load_from_text(CUSTOM, presets)["custom"])
    assert not any(secret in shown for secret in ("plain", "newer", "older"))
    with pytest.raises(SourceError) as error:
        load_from_text(source_toml('secrets = ["hunter2", 5]'), presets)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no source: add a [[source]]"),
        ("[source]\nname = 1", "source: Expected `array`"),
        ("[[source]", "this is not TOML"),
        ("[[sauce]]", "sauce: there is no such key; did you mean 'source'?"),
        ("[[source]]", "source null: name: use 1 to 64 letters"),
        (source_toml("", name="a/b"), 'source "a/b": name: use 1 to 64 letters'),
        (
            source_toml('secrets = ["x"]') * 2,
            'source "s": name: another source has the same name; rename one',
        ),
        (
            source_toml("", preset='preset = "gihub"'),
            "preset: there is no 'gihub'; did you mean 'github'?",
        ),
        (source_toml("", preset="preset = 5"), "preset: there is no 5 (there are: "),
        (source_toml('secret = ["x"]'), 'source "s": secret: there is no such key; did you mean'),
        (source_toml("secrets = [5]"), 'source "s": secrets[0]: Expected `str`, got `int`'),
        (source_toml(""), 'source "s": secrets: there are none; add one'),
        (source_toml("secrets = []"), 'source "s": secrets: there are none; add one'),
        (source_toml('secrets = [""]'), "secrets[0]: written in the file is empty"),
        (source_toml('secrets = ["a", "env:EMPTY"]'), "secrets[1]: env:EMPTY is empty; set it"),
        (source_toml('secrets = ["env:GONE"]'), "secrets[0]: env:GONE is not set; set it"),
        (
            source_toml('verify = ""'),
            'verify: set how its webhooks are verified, or write verify = "none"',
        ),
        (source_toml("", preset=""), "verify: set how its webhooks are verified"),
        (source_toml('verify = "standard-webhook"'), "did you mean 'standard-webhooks'?"),
        (source_toml('verify = ["none", { token = "X" }]'), '"none" accepts every request'),
        (source_toml('verify = { header = "X" }'), "verify: set hmac = <header>"),
        (source_toml('verify = { hmac = "X", token = "Y" }'), "verify: set hmac = <header>"),
        (source_toml('verify = { hmac = "X", algoritm = "sha1" }'), "did you mean 'algorithm'?"),
        (
            source_toml('verify = { hmac = "X", algorithm = "md5" }'),
            "verify.algorithm: Invalid enum",
        ),
        (
            source_toml('verify = { hmac = "X", items = "" }'),
            "verify.items: Expected `str` of length",
        ),
        (
            source_toml('verify = { hmac = "X", signed = "{x}" }'),
            "verify.signed: the signed text must",
        ),
        (
            source_toml('verify = { token = "X", field = "v1" }'),
            "verify.field: there is no such key",
        ),
        (
            source_toml('verify = { query = "X", scheme = "v1" }'),
            "verify.scheme: there is no such key",
        ),
        (source_toml('verify = { query = "" }'), "verify.query: Expected `str` of length"),
        (
            source_toml('verify = "none"\nwhen = { body.action = "x" }'),
            "when.body: write a value or a list of values, and the",
        ),
        (
            source_toml('verify = "none"\nwhen = { "body-x" = "x" }'),
            "when.body-x: 'body-x' is not JMESPath",
        ),
        (
            source_toml('verify = "none"\nwhen = { "body" = "/(/" }'),
            "when.body: /(/ is not a regular",
        ),
        (source_toml('verify = "none"\ndedupe = "a."'), "dedupe: 'a.' is not JMESPath"),
        (source_toml('verify = "none"\nfields = { verson = "a" }'), "did you mean 'version'?"),
        (
            source_toml('verify = "none"\nfields = { version = "f(a)" }'),
            "fields.version: there is no",
        ),
        (
            source_toml('verify = "none"\noutcome = { succeeded = ["x"] }'),
            "outcome: Object missing",
        ),
        (source_toml('verify = "none"', preset=""), "outcome: write path = <expression>"),
        ("preset = 5\n" + source_toml(""), "preset: Expected `object`"),
        (source_toml('verify = { hmac = "X Sig" }'), "verify.hmac: this is not the name"),
        (source_toml('verify = { hmac = "X", past_s = -1 }'), "verify.past_s: Expected `int` >= 0"),
        (
            source_toml('verify = { hmac = "X", timestamp = "X-T" }'),
            "verify.timestamp: the signed text lacks {X-T}: without it, anyone could send",
        ),
        (
            source_toml('verify = { hmac = "X", signed = "{@t}.{body}", timestamp = "@t" }'),
            "verify.signed: {@...} is a field of the signature header: set which field",
        ),
        (
            source_toml('verify = "none"\nwhen = { "body.action" = [] }'),
            'when."body.action": write a value',
        ),
        (
            source_toml('verify = "none"\noutcome = { path = "body.x", failed = ["/^f/"] }'),
            "outcome.failed: a regex is not allowed here; put it into the path",
        ),
    ],
)
def test_mistake_is_reported_with_its_key_and_fix(presets: str, text: str, problem: str) -> None:
    """One sentence: which source, which key, what to do."""
    with pytest.raises(SourceError, match=re.escape(problem)):
        load_from_text(text, presets)
