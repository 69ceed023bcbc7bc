"""Do the pages for senders tell the truth? What they say to paste is pasted, and read."""

import json
import re
import string
import tomllib
from pathlib import Path

import pytest

from service.accept.mapping import DeploymentCompleted, parse_webhook
from service.accept.signatures import SignedRequest, is_genuine
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
# The ten senders that are used most, two of them Argo's.
MOST_USED = {
    *("native", "github", "argocd", "argo-rollouts", "gitlab", "cdevents"),
    *("circleci", "buildkite", "flux", "azure-devops", "octopus"),
}

every_page = pytest.mark.parametrize("preset", sorted(PAGES))


def fenced_blocks(page: str, language: str) -> list[str]:
    """Give the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def source_from_page(page: str, name: str) -> Source:
    """Load the one source of a page."""
    (block,) = fenced_blocks(page, "toml")
    sources = load_sources(block, presets=read_presets(), read_secret=lambda _: SECRET)
    assert list(sources) == [name]
    return sources[name]


def read_sample(preset: str) -> tuple[dict[str, str], object]:
    """Give headers and body of a deployment that succeeded, as this sender tells it."""
    sample = json.loads((SAMPLES / preset / "succeeded.json").read_text(encoding="utf-8"))
    return {name.lower(): value for name, value in sample["headers"].items()}, sample["body"]


def test_the_senders_that_are_used_most_have_a_page() -> None:
    """A page each, named after its preset."""
    assert PAGES.keys() >= MOST_USED
    folder = ROOT / "service" / "accept" / "presets"
    assert PAGES.keys() == {page.stem for page in folder.glob("*.md")}


@every_page
def test_the_source_of_a_page_reads_what_its_sender_sends(preset: str) -> None:
    """With what the page says of environments, no field is missing."""
    source = source_from_page(PAGES[preset], preset)
    headers, body = read_sample(preset)
    event = parse_webhook(source, SignedRequest(headers, {}, json.dumps(body).encode()))
    assert isinstance(event, DeploymentCompleted), event
    assert (event.outcome, source.preset) == ("succeeded", preset)


@every_page
def test_a_page_names_the_url_and_the_secret_of_its_source(preset: str) -> None:
    """The two things that stand on both sides."""
    page = PAGES[preset]
    assert f"https://hooks.example.com/webhooks/{preset}" in page
    (place,) = source_from_page(page, preset).secret_locations
    assert page.count(place.removeprefix("env:")) >= 2


def render_go_template(template: str, variables: dict[str, object]) -> str:
    """Stand in for Go's templates, as far as our pages use them: ``{{toJson .name}}``."""
    rendered = re.sub(
        r"\{\{\s*toJson \.(\w+)\s*\}\}", lambda found: json.dumps(variables[found[1]]), template
    )
    assert "{{" not in rendered
    return rendered


@pytest.mark.parametrize(("preset", "variable"), [("argocd", "app"), ("argo-rollouts", "rollout")])
def test_the_template_for_argo_renders_to_a_body_that_is_accepted(
    preset: str, variable: str
) -> None:
    """The body is the whole object, the header is the secret."""
    page = PAGES[preset]
    (template,) = re.findall(r"^ +body: '(.*)'$", page, re.MULTILINE)
    (prefix,) = re.findall(
        r"name: Authorization\n +value: (.*) \$enricher-token$", page, re.MULTILINE
    )
    _, thing = read_sample(preset)
    body = render_go_template(template, {variable: thing}).encode()
    assert_accepted(source_from_page(page, preset), {"authorization": f"{prefix} {SECRET}"}, body)


@pytest.mark.parametrize("preset", ["native", "cdevents"])
def test_the_curl_step_sends_a_body_that_is_accepted(preset: str) -> None:
    """The shell fills the variables in, as it would; the headers are those of the page."""
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
    command, _, document = string.Template(step).substitute(variables).partition("<<BODY\n")
    headers = dict(re.findall(r'-H "([^:"]+): ([^"]+)"', command))
    body = document.partition("\nBODY\n")[0].encode()
    event = assert_accepted(
        source_from_page(page, preset),
        {name.lower(): value for name, value in headers.items()},
        body,
    )
    assert (event.environment, event.application, event.version) == ("production", "web", "5d1c6b0")
    assert "run-7" in event.delivery


def assert_accepted(source: Source, headers: dict[str, str], body: bytes) -> DeploymentCompleted:
    """Judge a request as the receiver does; it must be a deployment that succeeded."""
    request = SignedRequest(headers, {}, body)
    assert is_genuine(source.checks, request, now_s=0)
    event = parse_webhook(source, request)
    assert isinstance(event, DeploymentCompleted), event
    assert event.outcome == "succeeded"
    return event


def test_the_label_and_the_annotation_of_a_page_are_what_its_preset_reads() -> None:
    """Flux, Buildkite and Argo are told the environment under a name that the page says."""
    assert "meta-data set environment production" in PAGES["buildkite"]
    assert "body.build.meta_data.environment" in PRESETS["buildkite"]["fields"]["environment"]
    assert "eventMetadata:\n    env: production" in PAGES["flux"]
    assert "body.metadata.env " in PRESETS["flux"]["fields"]["environment"]
    for preset in ("argocd", "argo-rollouts"):
        assert "labels:\n    environment: production" in PAGES[preset]
        assert "metadata.labels.environment" in PRESETS[preset]["fields"]["environment"]


def test_links_between_pages_lead_somewhere() -> None:
    """A page may send its reader to another."""
    for page in PAGES.values():
        assert set(re.findall(r"\]\(([\w-]+)\.md\)", page)) <= PAGES.keys()


def test_the_pages_are_packed_where_an_installed_program_looks() -> None:
    """The wheel, the source distribution and the image carry the package that holds the pages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = project["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["packages"] == ["service"]
    assert "/service" in targets["sdist"]["include"]
    assert "!service" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


@every_page
def test_a_filled_page_is_about_ones_own_source(preset: str) -> None:
    """Its name and address stand wherever those of the example stood, and it still loads."""
    filled = fill_setup_page(
        PAGES[preset], preset=preset, source_name="ours", base_url="https://cd.acme.example/"
    )
    assert "hooks.example.com" not in filled
    assert "https://cd.acme.example/webhooks/ours" in filled
    assert source_from_page(filled, "ours").preset == preset


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - PAGES.keys() - {"standard-webhooks"}))
def test_a_preset_without_a_page_tells_what_it_knows_itself(preset: str) -> None:
    """Address, proof, and a source that has every field."""
    source = build_example_source(preset, presets=read_presets())
    page = render_setup_page(source)
    assert f"https://hooks.example.com/webhooks/{preset}" in page
    fields = source_from_page(page, preset).fields
    if preset != "launchdarkly":  # tells of no deployments at all
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
def test_what_a_sender_without_a_page_has_to_be_told_is_told(preset: str, told: str) -> None:
    """What the file of its preset says, without the signs of a comment."""
    source = build_example_source(preset, presets=read_presets())
    page = render_setup_page(source)
    assert told in page
    assert "\n# " not in page


def test_every_preset_says_where_its_vendor_documents_it() -> None:
    """Nobody has to guess what a preset was written from."""
    for preset in PRESETS.keys() - {"native"}:
        assert "https://" in PRESETS[preset]["about"], preset


def test_a_source_that_is_there_needs_no_lines_of_toml() -> None:
    """They stand in its file already, and may say more than we would."""
    text = '[[source]]\nname = "ours"\nverify = { token = "X-Ours" }\nsecrets = ["x"]\n'
    text += 'outcome = { path = "body.x", succeeded = ["ok"] }\n'
    source = load_sources(text, presets=read_presets(), read_secret=str)["ours"]
    page = render_setup_page(source, is_configured=True)
    assert page.endswith("/webhooks/ours,\nverified by the secret in X-Ours.\n")
    assert not fenced_blocks(page, "toml")


def test_source_with_own_verify_does_not_fit_the_page_of_its_preset() -> None:
    """The page would name a header that the source does not accept."""
    text = '[[source]]\nname = "ours"\npreset = "github"\nsecrets = ["x"]\n'
    presets = read_presets()
    for more, has_own_verify in (("", False), ('verify = { token = "X-Ours" }\n', True)):
        source = load_sources(text + more, presets=presets, read_secret=str)["ours"]
        assert source.has_own_verify is has_own_verify


def test_what_only_says_how_bytes_are_signed_has_no_recipe() -> None:
    """The sentence says what is missing."""
    with pytest.raises(SourceError, match="write a source with an outcome and fields"):
        build_example_source("standard-webhooks", presets=read_presets())


def test_a_rollback_of_argo_cd_is_told_too() -> None:
    """Once per sync: its own catalog says once per revision, and an earlier one had its turn."""
    assert PAGES["argocd"].count("oncePer: app.status.operationState?.finishedAt\n") == 2


def test_a_source_is_asked_for_by_a_name_that_there_is() -> None:
    """What was meant is said."""
    with pytest.raises(SourceError, match="no preset 'gitlub'; did you mean 'gitlab'"):
        build_example_source("gitlub", presets=read_presets())
