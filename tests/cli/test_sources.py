"""Tests of the `sources` commands: they need no Redis and no LaunchDarkly, and show no secret."""

import hmac
import json
from pathlib import Path

import pytest

from tests.cli.shell import CommandRunner, run_concurrently

SOURCES = """
[[source]]
name = "web"
preset = "github"
secrets = ["env:GITHUB_SECRET", "file:{secret}"]
project = "default"
"""
BODY = {
    "deployment_status": {"state": "success", "environment": "production"},
    "deployment": {"sha": "7fd1a60"},
    "repository": {"name": "web"},
}
SECRET = "s3cr3t-that-nobody-may-see"


@pytest.fixture
def sources_runner(command_runner: CommandRunner, tmp_path: Path) -> CommandRunner:
    """Build a runner with a file of sources, and neither Redis nor a token."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "sources.toml").write_text(SOURCES.format(secret=tmp_path / "secret"))
    (tmp_path / "body.json").write_text(json.dumps(BODY))
    del command_runner.env["LAUNCHDARKLY_ACCESS_TOKEN"]
    del command_runner.env["ENRICHER_WEBHOOK_SECRET"]
    command_runner.env |= {
        "ENRICHER_SOURCES": str(tmp_path / "sources.toml"),
        "ENRICHER_REDIS_URL": "redis://127.0.0.1:1",
        "GITHUB_SECRET": SECRET,
    }
    return command_runner


async def test_sources_list_reports_missing_secrets(sources_runner: CommandRunner) -> None:
    """One that is missing is told, and is a failure; none is shown."""
    well, ill = await run_concurrently(
        sources_runner.run("sources list --url https://cd.example"),
        sources_runner.run("sources list", GITHUB_SECRET=""),
    )
    assert (well.code, well.err, ill.code) == (0, "", 1)
    assert "POST         https://cd.example/webhooks/web\n" in well.out
    assert "env:GITHUB_SECRET is set\n" in well.out
    assert "env:GITHUB_SECRET is empty\n" in ill.out
    assert "pass the public URL with --url" in ill.err
    assert SECRET not in well.out + ill.out


async def test_source_without_its_public_key_is_listed(
    sources_runner: CommandRunner, tmp_path: Path
) -> None:
    """What is missing is the key, whatever kind of key would do."""
    with (tmp_path / "sources.toml").open("a") as file:
        file.write('verify = { ed25519 = "X-Signature" }\n')
    ended = await sources_runner.run("sources list", GITHUB_SECRET="")
    assert ended.code == 2
    assert "is not a public key (whpk_), and verify has only ed25519" in ended.error_text
    (tmp_path / "secret").unlink()
    ended = await sources_runner.run("sources list", GITHUB_SECRET="")
    assert (ended.code, "env:GITHUB_SECRET is empty\n" in ended.out) == (1, True)


async def test_sources_path_with_an_unknown_home_is_a_usage_error(
    sources_runner: CommandRunner,
) -> None:
    """No traceback for a ~ that leads nowhere."""
    ended = await sources_runner.run(
        "sources list", ENRICHER_SOURCES="~nobody-of-this-name/sources.toml"
    )
    assert ended.code == 2
    assert "ENRICHER_SOURCES cannot be read: " in ended.error_text


async def test_sources_try_verifies_the_headers(
    sources_runner: CommandRunner, tmp_path: Path
) -> None:
    """Signed it would be queued, unsigned it would not, and the exit code says which."""
    body = tmp_path / "body.json"
    digest = hmac.new(SECRET.encode(), body.read_bytes(), "sha256").hexdigest()
    command = f"sources try web {body} --header X-GitHub-Event:deployment_status"
    signed, unsigned, without = await run_concurrently(
        sources_runner.run(f"{command} --header X-Hub-Signature-256:sha256={digest}"),
        sources_runner.run(command),
        sources_runner.run(
            command, ENRICHER_SOURCES=str(tmp_path / "sources.toml"), GITHUB_SECRET=""
        ),
    )
    assert (signed.code, unsigned.code, without.code) == (0, 1, 1)
    assert "queued as find:default/production/web/7fd1a60 (202)" in signed.out
    assert "rejected (401); if genuine: queued as find:" in unsigned.out
    assert "env:GITHUB_SECRET is empty: its signatures cannot be verified here\n" in without.out
    assert not list(sources_runner.data.glob("*"))


async def test_sources_try_takes_query_parameters_and_standard_input(
    sources_runner: CommandRunner, tmp_path: Path
) -> None:
    """For senders that carry the secret in the URL."""
    with (tmp_path / "sources.toml").open("a") as file:
        file.write('verify = { query = "token" }\n')
    command = f"sources try web {tmp_path / 'body.json'} --header x-github-event:deployment_status"
    known, empty = await run_concurrently(
        sources_runner.run(f"{command} --query token={SECRET}"),
        sources_runner.run("sources try web -"),
    )
    assert (known.code, empty.code) == (0, 1)
    assert "verified     yes" in known.out
    assert "the body is not JSON" in empty.out


async def test_sources_setup_describes_the_source_or_else_the_preset(
    sources_runner: CommandRunner,
) -> None:
    """A page with one's own address, also before anything is configured."""
    own, page, message = await run_concurrently(
        sources_runner.run("sources setup web --url https://cd.example"),
        sources_runner.run("sources setup argocd", ENRICHER_SOURCES=""),
        sources_runner.run("sources setup vercel"),
    )
    assert (own.code, page.code, message.code) == (0, 0, 0)
    assert own.out.startswith("# GitHub: deployment statuses\n")
    assert "https://cd.example/webhooks/web" in own.out
    assert "url: http://127.0.0.1:0/webhooks/argocd\n" in page.out
    assert "verified by HMAC-SHA1 in x-vercel-signature." in message.out
    assert "events deployment.succeeded, deployment.error, deployment.canceled." in message.out


async def test_sources_setup_of_a_source_with_own_verify_ignores_the_page(
    sources_runner: CommandRunner, tmp_path: Path
) -> None:
    """One that is verified in its own way is no business of the page."""
    with (tmp_path / "sources.toml").open("a") as file:
        file.write('verify = { token = "X-Ours" }\n')
    own = await sources_runner.run("sources setup web --url https://cd.example")
    assert own.code == 0
    assert (
        "Configure it to post JSON to https://cd.example/webhooks/web,\nverified by the secret"
        in own.out
    )
    assert "X-Hub-Signature-256" not in own.out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("sources", "Usage: deployment-enricher sources [OPTIONS] COMMAND"),
        ("sources try wob body.json", "there is no source 'wob' (there are: web)"),
        ("sources try web /nowhere", "/nowhere cannot be read: No such file or directory"),
        ("sources try web - --header nonsense", "'nonsense' has no ':' between name and value"),
        ("sources try web - --query =x", "'=x' has no '=' between name and value"),
        ("sources setup gitlub", "no source and no preset 'gitlub'; did you mean 'gitlab'?"),
        ("sources list --url ftp://x", "does not begin with http:// or https://"),
    ],
)
async def test_sources_with_a_wrong_argument_is_a_usage_error(
    sources_runner: CommandRunner, words: str, complaint: str
) -> None:
    """And ends with 2."""
    ended = await sources_runner.run(words)
    assert ended.code == 2
    assert complaint in ended.error_text


async def test_invalid_sources_file_ends_every_command_that_reads_it(
    sources_runner: CommandRunner, tmp_path: Path
) -> None:
    """With file, key and fix, before anything is opened."""
    with (tmp_path / "sources.toml").open("a") as file:
        file.write('projekt = "x"\n')
    for ended in await run_concurrently(
        sources_runner.run("serve"), sources_runner.run("sources list")
    ):
        assert ended.code == 2
        where = f'{tmp_path / "sources.toml"}: source "web": projekt: there is no such key'
        assert f"{where}; did you mean 'project'?" in ended.error_text
