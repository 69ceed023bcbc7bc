"""Verification by each preset, a source without a preset, forms, and odd content types."""

import hmac
import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from urllib.parse import quote_plus, urlencode

import pytest
from aiohttp import ClientSession
from yarl import URL

from service.accept.mapping import Batch, DeploymentEvent, Event, parse_webhook
from service.accept.signatures import (
    Ed25519,
    SignedRequest,
    Token,
    is_genuine,
    sign_standard_webhook,
)
from service.accept.sources import Source, load_sources
from tests.accept.receiver_harness import (
    FINISHED,
    NOW_S,
    SECRET,
    BacklogStub,
    PostWebhook,
    encode_body,
    github_headers,
    native_headers,
    parse_response,
    serve_receiver,
)
from tests.accept.sample_webhooks import PRESETS, make_sources, read_samples

BODY = b'{ "spaces":  "kept" }'

Sign = Callable[[str, bytes], tuple[dict[str, str], dict[str, str]]]


def hmac_signer(
    name: str, template: str = "{}", *, algorithm: str = "sha256", prefix: str = ""
) -> Sign:
    """Return a signer with an HMAC of the body, after a prefix, in hex."""

    def sign(secret: str, body: bytes) -> tuple[dict[str, str], dict[str, str]]:
        code = hmac.new(secret.encode(), prefix.encode() + body, algorithm).hexdigest()
        return {name: template.format(code)}, {}

    return sign


def header_signer(name: str, template: str = "{}") -> Sign:
    """Return a signer that sends the secret in a header."""
    return lambda secret, _: ({name: template.format(secret)}, {})


def query_signer(name: str) -> Sign:
    """Return a signer that sends the secret in the URL."""
    return lambda secret, _: ({}, {name: secret})


def standard_webhooks_signer(secret: str, body: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Return the headers and parameters of Standard Webhooks."""
    return sign_standard_webhook(secret, delivery="m", timestamp_s=NOW_S, body=body), {}


def svix_signer(secret: str, body: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Return the same headers under the names that Svix uses by default."""
    headers, parameters = standard_webhooks_signer(secret, body)
    return {name.replace("webhook-", "svix-"): value for name, value in headers.items()}, parameters


def heroku_signer(secret: str, body: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Return the headers and parameters of Heroku."""
    code = hmac.new(secret.encode(), body, "sha256").digest()
    return {"heroku-webhook-hmac-sha256": b64encode(code).decode()}, {}


BEARER, BASIC = (
    header_signer("authorization", "Bearer {}"),
    header_signer("authorization", "Basic {}"),
)
GITHUB = hmac_signer("x-hub-signature-256", "sha256={}")
SIGNERS: dict[str, list[Sign]] = {
    "native": [standard_webhooks_signer, svix_signer, BEARER],
    "github": [GITHUB],
    "github-workflow-run": [GITHUB],
    "gitlab": [standard_webhooks_signer, svix_signer, header_signer("x-gitlab-token")],
    "argocd": [BEARER, BASIC],
    "argo-rollouts": [BEARER, BASIC],
    "flux": [hmac_signer("x-signature", "sha256={}"), BEARER],
    "circleci": [hmac_signer("circleci-signature", "v2=00,v1={}")],
    "buildkite": [
        hmac_signer(
            "x-buildkite-signature", f"timestamp={NOW_S},signature={{}}", prefix=f"{NOW_S}."
        ),
        header_signer("x-buildkite-token"),
    ],
    "cdevents": [BEARER, query_signer("access_token")],
    "azure-devops": [BASIC],
    "octopus": [BEARER],
    "harness": [BEARER],
    "spinnaker": [BEARER, BASIC],
    "vercel": [hmac_signer("x-vercel-signature", algorithm="sha1")],
    "heroku": [heroku_signer],
    "render": [standard_webhooks_signer, svix_signer],
    "google-cloud-deploy": [query_signer("token")],
    "eventbridge-codedeploy": [header_signer("x-api-key"), BASIC],
    "tekton": [query_signer("token")],
    "jenkins-generic-event": [query_signer("token")],
    "bitbucket": [hmac_signer("x-hub-signature", "sha256={}")],
    "launchdarkly": [hmac_signer("x-ld-signature")],
}


@pytest.fixture(scope="module")
def sources(presets: str) -> dict[str, Source]:
    """Return a source of every preset with the secret "secret"."""
    return make_sources(presets)


def accepts(
    source: Source,
    headers_and_query: tuple[Mapping[str, str], Mapping[str, str]],
    *,
    body: bytes = BODY,
) -> bool:
    """Return whether a request is genuine for a source."""
    request = SignedRequest(*headers_and_query, body)
    return is_genuine(source.checks, request, now_s=NOW_S)


@pytest.mark.parametrize("preset", PRESETS)
def test_documented_signature_of_each_sender_is_genuine(
    sources: dict[str, Source], preset: str
) -> None:
    """Each documented way, with the right secret only; without a signature never."""
    source = sources[preset]
    shared = [scheme for scheme in source.schemes if not isinstance(scheme, Ed25519)]
    assert len(shared) == len(SIGNERS[preset])
    for sign in SIGNERS[preset]:
        assert accepts(source, sign("secret", BODY))
        assert not accepts(source, sign("another secret", BODY))
    assert not accepts(source, ({}, {}))


@pytest.mark.parametrize("preset", PRESETS)
def test_signature_is_over_the_received_bytes(sources: dict[str, Source], preset: str) -> None:
    """The same JSON in another layout is not genuine; a token does not depend on the body."""
    rewritten = json.dumps(json.loads(BODY)).encode()
    for sign in SIGNERS[preset]:
        signed = sign("secret", BODY)
        is_token = signed == sign("secret", b"")
        assert accepts(sources[preset], signed, body=rewritten) is is_token


def test_unknown_digest_method_is_not_genuine(sources: dict[str, Source]) -> None:
    """Bitbucket announces that another method may replace sha256; none is known yet."""
    weak = hmac_signer("x-hub-signature", "sha1={}", algorithm="sha1")
    assert not accepts(sources["bitbucket"], weak("secret", BODY))


# A source for a sender without a preset.
WOODPECKER = """
[[source]]
name = "woodpecker"
verify = { token = "X-Token" }
secrets = ["s3cret"]
project = "default"
when = { "body.event" = "deployment" }
outcome = { path = "body.status", succeeded = ["success"], failed = ["failure", "error"] }
dedupe = "join('/', [body.repo.name, to_string(body.number)])"
fields = { environment = "body.deploy_to", application = "body.repo.name", version = "body.commit" }
"""


async def test_source_without_preset_needs_nine_lines_of_toml(
    presets: str, backlog_stub: BacklogStub
) -> None:
    """No code: verified, filtered, mapped, and counted once."""
    body = {"event": "deployment", "number": 7, "status": "success", "deploy_to": "production"}
    body |= {"repo": {"name": "web"}, "commit": "5d1c6b0a"}
    sources = load_sources(WOODPECKER, presets=presets, read_secret=str)
    assert len(WOODPECKER.strip().splitlines()) == 9
    async with (
        serve_receiver(backlog_stub, *sources.values()) as (host, port),
        ClientSession() as session,
    ):
        responses = []
        for sent, token in [(body, "x"), (body, "s3cret"), (body, "s3cret"), ({}, "s3cret")]:
            url, headers = f"http://{host}:{port}/webhooks/woodpecker", {"X-Token": token}
            async with session.post(url, data=encode_body(sent), headers=headers) as response:
                answer = await parse_response(response)
                responses.append((response.status, answer["status"]))
    assert responses == [(401, 401), (202, "queued"), (200, "duplicate"), (200, "ignored")]
    ((key, event),) = backlog_stub.events.items()
    assert key == ("woodpecker", "web/7")
    assert (event.environment, event.application, event.version) == (
        "production",
        "web",
        "5d1c6b0a",
    )


@pytest.mark.parametrize(
    "preset", ["google-cloud-deploy", "jenkins-generic-event", "tekton", "cdevents"]
)
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("ab+cd/ef==0123456789", 200),
        ("ab%2Bcd/ef==0123456789", 200),
        ("ab%2Bcd%2Fef%3D%3D0123456789", 200),
        ("ab+cd/ef==012345678", 401),
        ("abcd/ef==0123456789", 401),
    ],
)
async def test_secret_in_base64_is_accepted_as_it_is_pasted_into_a_url(
    presets: str, backlog_stub: BacklogStub, preset: str, query: str, status: int
) -> None:
    """The ``+`` of such a secret may be percent-encoded or not."""
    text = f'[[source]]\nname = "s"\npreset = "{preset}"\nproject = "default"\n'
    text += 'secrets = ["ab+cd/ef==0123456789"]\n'
    sources = load_sources(text, presets=presets, read_secret=str)
    (parameter,) = (
        scheme.query
        for scheme in sources["s"].schemes
        if isinstance(scheme, Token) and scheme.query is not None
    )
    async with (
        serve_receiver(backlog_stub, *sources.values()) as (host, port),
        ClientSession() as session,
    ):
        url = URL(f"http://{host}:{port}/webhooks/s?{parameter}={query}", encoded=True)
        async with session.post(url, data=b"{}") as response:
            assert response.status == status


GITHUB_BODY = next(sample.body for sample in read_samples() if str(sample) == "github/succeeded")


def map_form(github: Source, body: bytes) -> Event | Batch:
    """Map a form as GitHub sends it."""
    headers = {"x-github-event": "deployment_status", "x-github-delivery": "guid"}
    headers |= {"content-type": "application/x-www-form-urlencoded"}
    return parse_webhook(github, SignedRequest(headers, {}, body))


def test_form_payload_is_mapped_as_json(github: Source) -> None:
    """GitHub's other content type has the body in ``payload``."""
    raw = json.dumps(GITHUB_BODY | {"odd": "a+b %41 ü €"}, ensure_ascii=False)
    plain = map_form(github, raw.encode())
    assert isinstance(plain, DeploymentEvent)
    assert map_form(github, f"payload={quote_plus(raw)}".encode()) == plain
    assert map_form(github, urlencode({"payload": raw, "more": 1}).encode()) == plain


async def test_form_is_verified_by_its_bytes(post: PostWebhook) -> None:
    """The signature is over the form, not over the JSON in it."""
    raw = json.dumps(GITHUB_BODY)
    form = f"payload={quote_plus(raw)}".encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await post("github", form, github_headers(form) | kind))[0] == 202
    assert (await post("github", form, github_headers(raw.encode()) | kind))[0] == 401


@pytest.mark.parametrize("kind", ["", "text/plain; charset=UTF-8", "application/octet-stream", "?"])
async def test_content_type_may_be_missing_or_wrong(post: PostWebhook, kind: str) -> None:
    """Argo CD sends none, curl calls JSON a form, SNS calls it plain text."""
    body = encode_body(FINISHED)
    headers = native_headers(body) | ({"Content-Type": kind} if kind else {})
    assert (await post("native", body, headers))[0] == 202


async def test_dropped_metadata_is_logged_with_the_webhook(
    post: PostWebhook, backlog_stub: BacklogStub
) -> None:
    """The receiver queues the event without its metadata; the log event says so."""
    for delivery, metadata in enumerate([{"notes": "x" * 9000}, {"run": 7}]):
        body = encode_body(FINISHED | {"eventMetadata": metadata})
        headers = native_headers(body, delivery=f"msg_{delivery}")
        assert (await post("native", body, headers))[0] == 202
    logged = [fields.get("metadata_dropped") for _, fields in backlog_stub.log_events]
    assert logged == [True, None]
    assert [event.metadata_dropped for event in backlog_stub.events.values()] == [True, False]


async def test_unreadable_time_is_logged_with_the_webhook(
    post: PostWebhook, backlog_stub: BacklogStub
) -> None:
    """The event is kept; a valid or missing time is not logged."""
    for delivery, body in enumerate(
        [FINISHED | {"eventTime": "yesterday"}, FINISHED | {"eventTime": 1_760_000_000}, FINISHED]
    ):
        headers = native_headers(body, delivery=f"msg_{delivery}")
        assert (await post("native", encode_body(body), headers))[0] == 202
    assert [fields.get("time_unreadable") for _, fields in backlog_stub.log_events] == [
        True,
        None,
        None,
    ]
    assert [event.event_time for event in backlog_stub.events.values()] == [
        None,
        1_760_000_000_000,
        None,
    ]
    assert SECRET not in repr(backlog_stub.log_events)


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"eventType":"started","eventType":"finished"}', "duplicate keys"),
        (b'{"eventType":"finished","eventTime":' + b"9" * 300 + b"}", "a huge number"),
        (b'{"eventType":"finished","eventTime":1e300}', "a huge float"),
    ],
    ids=["duplicate keys", "huge integer", "huge float"],
)
def test_odd_json_is_mapped_without_raising(native: Source, body: bytes, kept: str) -> None:
    """The last of equal keys counts; a number out of range costs only the time."""
    whole = b'{"deploymentId":"d-1",' + body[1:]
    event = parse_webhook(native, SignedRequest({}, {}, whole))
    assert isinstance(event, DeploymentEvent), kept
    assert event.event_time is None
    assert event.time_unreadable is (b"eventTime" in body)
