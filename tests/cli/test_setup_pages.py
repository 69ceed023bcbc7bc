"""Tests of the setup pages: what they say to paste is pasted, and loads."""

import itertools
import json
import os
import re
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.accept.mapping import DeploymentEvent, parse_webhook
from service.accept.signatures import SignedRequest, Token, is_genuine
from service.accept.source_files import read_presets, read_setup_page
from service.accept.sources import Source, SourceError, load_sources
from service.cli.setup_pages import (
    build_example_source,
    fill_setup_page,
    render_setup_page,
)

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "samples" / "webhooks"
PRESETS = tomllib.loads(read_presets())["preset"]
PAGES = {preset: page for preset in PRESETS if (page := read_setup_page(preset))}
NOW = "2026-11-24T12:00:00Z"
SECRET = "the secret"
# Prints the arguments and the standard input of curl, each ended by NUL.
CURL_STUB = r"""curl() { printf '%s\0' "$@"; cat; }"""
# The ten senders that are used most, two of them Argo's.
MOST_USED = {
    *("native", "github", "argocd", "argo-rollouts", "gitlab", "cdevents"),
    *("circleci", "buildkite", "flux", "azure-devops", "octopus"),
}

every_page = pytest.mark.parametrize("preset", sorted(PAGES))


def fenced_blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def source_from_page(page: str, name: str) -> Source:
    """Load the sources of a page; return the one that is named."""
    text = "".join(fenced_blocks(page, "toml"))
    return load_sources(text, presets=read_presets(), read_secret=lambda _: SECRET)[name]


def read_sample(preset: str) -> tuple[dict[str, str], object]:
    """Return headers and body of a successful deployment, as this sender sends it."""
    sample = json.loads((SAMPLES / preset / "succeeded.json").read_text(encoding="utf-8"))
    return {name.lower(): value for name, value in sample["headers"].items()}, sample["body"]


def test_most_used_senders_have_a_page() -> None:
    """A page each, named after its preset."""
    assert PAGES.keys() >= MOST_USED
    folder = ROOT / "service" / "accept" / "presets"
    assert PAGES.keys() == {page.stem for page in folder.glob("*.md")}


@every_page
def test_source_of_a_page_maps_its_senders_webhook(preset: str) -> None:
    """With what the page says of environments, no field is missing."""
    source = source_from_page(PAGES[preset], preset)
    headers, body = read_sample(preset)
    event = parse_webhook(source, SignedRequest(headers, {}, json.dumps(body).encode()))
    assert isinstance(event, DeploymentEvent), event
    assert (event.outcome, source.preset) == ("succeeded", preset)


@every_page
def test_page_names_the_url_and_the_secret_of_its_source(preset: str) -> None:
    """The two things that stand on both sides."""
    page = PAGES[preset]
    assert f"https://hooks.example.com/webhooks/{preset}" in page
    (place,) = source_from_page(page, preset).secret_locations
    assert page.count(place.removeprefix("env:")) >= 2


def github_cases() -> list[list[str]]:
    """Return the cells of every row of the table of applications on GitHub's page."""
    lines = PAGES["github"].split("| repository | task |")[1].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("case", github_cases(), ids=lambda case: "-".join(case[:2]))
def test_github_page_tells_applications_apart(case: list[str]) -> None:
    """Applications of one repository, and repositories of two owners with equal names."""
    repository, task, payload, application = case
    headers, body = read_sample("github")
    assert isinstance(body, dict)
    body["repository"] |= {"full_name": repository, "name": repository.partition("/")[2]}
    body["deployment"] |= {"task": task, "payload": payload}
    source = source_from_page(PAGES["github"], "github-of-two-owners")
    event = parse_webhook(source, SignedRequest(headers, {}, json.dumps(body).encode()))
    assert isinstance(event, DeploymentEvent)
    assert event.application == application


def render_go_template(template: str, variables: dict[str, object]) -> str:
    """Stand in for Go's templates, as far as our pages use them: ``{{toJson .name}}``."""
    rendered = re.sub(
        r"\{\{\s*toJson \.(\w+)\s*\}\}", lambda found: json.dumps(variables[found[1]]), template
    )
    assert "{{" not in rendered
    return rendered


@pytest.mark.parametrize(("preset", "variable"), [("argocd", "app"), ("argo-rollouts", "rollout")])
def test_argo_template_renders_an_accepted_body(preset: str, variable: str) -> None:
    """The body is the whole object, the header is the secret."""
    page = PAGES[preset]
    templates = re.findall(r"^ +body: '(.*)'$", page, re.MULTILINE)
    (prefix,) = re.findall(
        r"name: Authorization\n +value: (.*) \$enricher-token$", page, re.MULTILINE
    )
    _, sample = read_sample(preset)
    assert isinstance(sample, dict)
    headers = {"authorization": f"{prefix} {SECRET}"}
    source = source_from_page(page, preset)
    reporting_source = replace(source, report=True)
    outcomes = []
    for template in templates:
        body = render_go_template(template, {variable: sample.get(variable, sample)}).encode()
        outcomes.append(assert_accepted(reporting_source, headers, body).outcome)
    assert outcomes == ["succeeded", "failed", "started"][: len(outcomes)]


@pytest.mark.parametrize(
    "preset", sorted(name for name in PAGES if "started" in PRESETS[name]["outcome"])
)
def test_page_says_how_a_start_is_reported(preset: str) -> None:
    """Most senders send the webhook of a start only if they are configured to."""
    assert "the source has `report = true`" in PAGES[preset]


@pytest.mark.parametrize("preset", ["native", "cdevents"])
def test_curl_step_of_a_page_sends_an_accepted_body(preset: str) -> None:
    """A shell runs the step, with a function in place of curl."""
    page = PAGES[preset]
    step = next(block for block in fenced_blocks(page, "bash") if "<<BODY" in block)
    variables = {
        "ENVIRONMENT": "production",
        "APPLICATION": "web",
        "VERSION": "5d1c6b0",
        "PIPELINE_RUN_ID": "run-7",
        "NOW": NOW,
        f"{'ENRICHER' if preset == 'native' else 'CDEVENTS'}_WEBHOOK_SECRET": SECRET,
    }
    started_ms = int(time.time()) * 1000
    printed = subprocess.run(
        ["/bin/sh", "-euc", f"{CURL_STUB}\n{step}"],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout
    *arguments, body = printed.split(b"\0")
    headers = dict(
        value.decode().split(": ", 1)
        for flag, value in itertools.pairwise(arguments)
        if flag == b"-H"
    )
    event = assert_accepted(
        source_from_page(page, preset),
        {name.lower(): value for name, value in headers.items()},
        body,
    )
    assert (event.environment, event.application, event.version) == ("production", "web", "5d1c6b0")
    assert "run-7" in event.delivery
    assert event.event_time is not None
    if preset == "native":
        assert started_ms <= event.event_time <= time.time() * 1000


def assert_accepted(source: Source, headers: dict[str, str], body: bytes) -> DeploymentEvent:
    """Judge a request as the receiver does; it must be a deployment that ended."""
    request = SignedRequest(headers, {}, body)
    assert is_genuine(source.checks, request, now_s=0)
    event = parse_webhook(source, request)
    assert isinstance(event, DeploymentEvent), event
    return event


def test_labels_of_a_page_are_those_its_preset_reads() -> None:
    """Flux, Buildkite and Argo are told the environment under a name that the page says."""
    assert "meta-data set environment production" in PAGES["buildkite"]
    assert "body.build.meta_data.environment" in PRESETS["buildkite"]["fields"]["environment"]
    assert "eventMetadata:\n    env: production" in PAGES["flux"]
    assert "body.metadata.env " in PRESETS["flux"]["fields"]["environment"]
    for preset in ("argocd", "argo-rollouts"):
        assert "labels:\n    environment: production" in PAGES[preset]
        assert "metadata.labels.environment" in PRESETS[preset]["fields"]["environment"]


@every_page
def test_page_has_no_link_to_a_file_and_names_presets_that_exist(preset: str) -> None:
    """A terminal shows the page, and no file is beside it there."""
    page = PAGES[preset]
    assert re.findall(r"\]\((?!https?://)[^)]*\)", page) == []
    named = re.findall(r"`deployment-enricher sources setup ([^`]*)`", page)
    assert set(named) <= PAGES.keys()


@every_page
def test_sentence_before_a_block_of_a_page_is_whole(preset: str) -> None:
    """A sentence that the block completes ends with a colon."""
    assert re.findall(r"\b(?:are|is|of|to|with)\.\n\n```", PAGES[preset]) == []


def test_pages_are_packaged_with_the_service() -> None:
    """The wheel, the source distribution and the image carry the package that holds the pages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = project["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["packages"] == ["service"]
    assert "/service" in targets["sdist"]["include"]
    assert "!service" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


@every_page
def test_filled_page_names_the_users_source_and_url(preset: str) -> None:
    """Its name and address stand wherever those of the example stood, and it still loads."""
    filled = fill_setup_page(
        PAGES[preset], preset=preset, source_name="ours", base_url="https://cd.acme.example/"
    )
    assert "hooks.example.com" not in filled
    assert "https://cd.acme.example/webhooks/ours" in filled
    assert source_from_page(filled, "ours").preset == preset


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - PAGES.keys() - {"standard-webhooks"}))
def test_preset_without_a_page_renders_one_from_its_fields(preset: str) -> None:
    """Address, proof, and a source that has every field."""
    source = build_example_source(preset, presets=read_presets())
    page = render_setup_page(source)
    assert f"https://hooks.example.com/webhooks/{preset}" in page
    fields = source_from_page(page, preset).fields
    if preset != "launchdarkly":  # tells about no deployments at all
        assert fields.environment and fields.application and fields.version  # noqa: PT018 - all three


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        ("harness", "X-Deployment-Environment"),
        ("harness", "Do not add the\nContent-Encoding of Harness's own example"),
        ("github-workflow-run", "fields = { environment = \"'production'\" }"),
        ("tekton", "to a sink with a URL that ends\nin ?token=<secret>"),
        ("jenkins-generic-event", "The parameters of the build name the version (VERSION)"),
        ("google-cloud-deploy", 'attributes.ResourceType = "Rollout"'),
    ],
)
def test_rendered_page_includes_the_about_of_its_preset(preset: str, told: str) -> None:
    """What the file of its preset says, without the signs of a comment."""
    source = build_example_source(preset, presets=read_presets())
    page = render_setup_page(source)
    assert told in page
    assert "\n# " not in page


def test_every_preset_links_to_its_vendor() -> None:
    """Nobody has to guess what a preset was written from."""
    for preset in PRESETS.keys() - {"native"}:
        assert "https://" in PRESETS[preset]["about"], preset


def test_page_of_a_configured_source_has_no_toml() -> None:
    """They stand in its file already, and may say more than we would."""
    text = '[[source]]\nname = "ours"\nverify = { token = "X-Ours" }\nsecrets = ["x"]\n'
    text += 'outcome = { path = "body.x", succeeded = ["ok"] }\nfields = { id = "body.id" }\n'
    source = load_sources(text, presets=read_presets(), read_secret=str)["ours"]
    page = render_setup_page(source, is_configured=True)
    assert page.endswith("/webhooks/ours,\nverified by the secret in X-Ours.\n")
    assert not fenced_blocks(page, "toml")


def test_page_lists_several_schemes_one_per_line() -> None:
    """A sentence with all of them cannot be read."""
    page = render_setup_page(build_example_source("render", presets=read_presets()))
    assert (
        "/webhooks/render,\nverified in one of these ways:\n\n"
        "- HMAC-SHA256 in webhook-signature, at most 300 s old\n"
        "- Ed25519 in webhook-signature, at most 300 s old, by a key whpk_...\n"
        "- HMAC-SHA256 in svix-signature, at most 300 s old\n"
        "- Ed25519 in svix-signature, at most 300 s old, by a key whpk_...\n\n"
        "In the file"
    ) in page


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"standard-webhooks"}))
def test_page_says_how_to_encode_a_secret_if_a_url_may_have_it(preset: str) -> None:
    """Only then: a header needs no encoding."""
    source = build_example_source(preset, presets=read_presets())
    in_url = any(isinstance(scheme, Token) and scheme.query for scheme in source.schemes)
    assert ("Percent-encode" in (PAGES.get(preset) or render_setup_page(source))) is in_url


def test_example_sets_only_the_fields_that_its_preset_lacks() -> None:
    """The sender sends the other ones."""
    pages = {
        preset: render_setup_page(build_example_source(preset, presets=read_presets()))
        for preset in ("heroku", "eventbridge-codedeploy", "harness")
    }
    lines = {
        preset: re.findall(r"^fields = \{ (.*) \}", page, re.MULTILINE)
        for preset, page in pages.items()
    }
    assert lines == {
        "heroku": ["environment = \"'production'\""],
        "eventbridge-codedeploy": ['version = "headers.x_version"'],
        "harness": [],
    }


def test_source_with_own_verify_does_not_fit_the_page_of_its_preset() -> None:
    """The page would name a header that the source does not accept."""
    text = '[[source]]\nname = "ours"\npreset = "github"\nsecrets = ["x"]\n'
    presets = read_presets()
    for more, has_own_verify in (("", False), ('verify = { token = "X-Ours" }\n', True)):
        source = load_sources(text + more, presets=presets, read_secret=str)["ours"]
        assert source.has_own_verify is has_own_verify


def test_preset_that_only_verifies_has_no_page() -> None:
    """The sentence says what is missing."""
    with pytest.raises(SourceError, match="write a source with an outcome and fields"):
        build_example_source("standard-webhooks", presets=read_presets())


def test_argocd_page_notifies_once_per_sync() -> None:
    """Once per sync: its own catalog says once per revision, and an earlier one had its turn."""
    assert PAGES["argocd"].count("oncePer: app.status.operationState?.finishedAt\n") == 2


def test_unknown_preset_is_refused_with_a_suggestion() -> None:
    """What was meant is said."""
    with pytest.raises(SourceError, match="no preset 'gitlub'; did you mean 'gitlab'"):
        build_example_source("gitlub", presets=read_presets())
