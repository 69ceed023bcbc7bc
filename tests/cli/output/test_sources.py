"""Tests of the list of sources: what a sender needs, and no secret."""

import pytest

from service.accept.source_files import read_presets
from service.accept.sources import Source, load_sources
from service.cli.source_text import describe_scheme, render_sources, webhook_url

TEXT = """
[[source]]
name = "web"
preset = "github"
secrets = ["env:SET", "file:/run/gone", "hunter2"]

[[source]]
name = "hook"
verify = { query = "token" }
outcome = { path = "body.state", succeeded = ["ok"] }
fields = { id = "body.id" }
secrets = ["env:SET"]

[[source]]
name = "open"
preset = "native"
verify = "none"
"""


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    """Load one source of each kind."""
    return load_sources(TEXT, presets=read_presets(), read_secret=lambda _: "hunter3")


def test_list_of_sources_has_url_verification_and_secrets(sources: dict[str, Source]) -> None:
    """A person reads there what to paste, and which secret is away."""
    troubles = {"file:/run/gone": "cannot be read: No such file"}
    assert render_sources(sources, base_url="https://cd.example/", secret_problems=troubles) == (
        "web  (preset github)\n"
        "  POST         https://cd.example/webhooks/web\n"
        "  verified by  HMAC-SHA256 in X-Hub-Signature-256\n"
        "  secrets      env:SET is set\n"
        "               file:/run/gone cannot be read: No such file\n"
        "               written in the file is set\n"
        "\n"
        "hook  (no preset)\n"
        "  POST         https://cd.example/webhooks/hook?token=THE-SECRET\n"
        "  verified by  the secret in the URL, as ?token=\n"
        "  secrets      env:SET is set\n"
        "\n"
        "open  (preset native)\n"
        "  POST         https://cd.example/webhooks/open\n"
        "  verified by  nothing: anyone who reaches the receiver is accepted\n"
    )


def test_list_of_sources_shows_no_secret(sources: dict[str, Source]) -> None:
    """Neither one that is written in the file nor one that is not."""
    listed = render_sources(sources, base_url="https://cd.example", secret_problems={})
    assert "hunter" not in listed


def test_webhook_url_holds_the_secret_only_if_no_header_can() -> None:
    """CDEvents may come with a header; then the URL stays clean."""
    text = '[[source]]\nname = "ce"\npreset = "cdevents"\nsecrets = ["x"]\n'
    source = load_sources(text, presets=read_presets(), read_secret=str)["ce"]
    assert webhook_url(source, "http://receiver") == "http://receiver/webhooks/ce"


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("native", "HMAC-SHA256 in webhook-signature, at most 300 s old"),
        ("native", "the secret in Authorization, after Bearer"),
        ("gitlab", "the secret in X-Gitlab-Token"),
        ("vercel", "HMAC-SHA1 in x-vercel-signature"),
    ],
)
def test_scheme_is_described_by_what_a_sender_must_send(preset: str, words: str) -> None:
    """Header, method, and how long it counts."""
    text = f'[[source]]\nname = "s"\npreset = "{preset}"\nsecrets = ["x"]\nproject = "default"\n'
    source = load_sources(text, presets=read_presets(), read_secret=str)["s"]
    assert words in [describe_scheme(scheme) for scheme in source.schemes]
