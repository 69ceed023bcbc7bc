"""Ed25519 signatures of Standard Webhooks, verified with a public key."""

import json
import sys
from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.accept.signatures import SignedRequest, is_genuine, sign_standard_webhook
from service.accept.sources import Source, SourceError, load_sources
from tests.accept.sample_webhooks import REQUIRED_FIELDS
from tests.vendor_samples import require_signature_vectors

NOW_S = 1_760_000_000
BODY = b'{"eventType":"finished"}'
SHARED_SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cyE="
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def encode_public_key(private: Ed25519PrivateKey) -> str:
    """Return the public key in the form of Standard Webhooks."""
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"whpk_{b64encode(raw).decode()}"


def sign_v1a(
    private: Ed25519PrivateKey, *, timestamp: int = NOW_S, body: bytes = BODY
) -> dict[str, str]:
    """Return the headers of Standard Webhooks, version v1a."""
    signature = private.sign(f"msg_1.{timestamp}.".encode() + body)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1a,{b64encode(signature).decode()}",
    }


def load_source(
    presets: str, *secrets: str, preset: str = "native", extra_toml: str = ""
) -> Source:
    """Return a source with these secrets."""
    text = f'[[source]]\nname = "s"\npreset = "{preset}"\nproject = "default"\n'
    text += f"secrets = {json.dumps(secrets)}\n{extra_toml}\n"
    text += f"[source.fields]\n{REQUIRED_FIELDS.get(preset, '')}\n"
    return load_sources(text, presets=presets, read_secret=str)["s"]


def accepts(source: Source, headers: dict[str, str], *, body: bytes = BODY) -> bool:
    """Return whether a request is genuine for a source."""
    request = SignedRequest(headers, {}, body)
    return is_genuine(source.checks, request, now_s=NOW_S)


@pytest.mark.parametrize("preset", ["native", "gitlab", "render"])
def test_ed25519_signature_is_genuine_for_its_key_and_bytes(presets: str, preset: str) -> None:
    """Another key, another body, another id or an old timestamp is not genuine."""
    source = load_source(presets, encode_public_key(PRIVATE), preset=preset)
    assert accepts(source, sign_v1a(PRIVATE))
    assert not accepts(source, sign_v1a(OTHER))
    assert not accepts(source, sign_v1a(PRIVATE), body=BODY + b" ")
    assert not accepts(source, sign_v1a(PRIVATE) | {"webhook-id": "msg_2"})
    assert accepts(source, sign_v1a(PRIVATE, timestamp=NOW_S - 300))
    assert not accepts(source, sign_v1a(PRIVATE, timestamp=NOW_S - 301))


def test_public_keys_and_secrets_work_at_the_same_time(presets: str) -> None:
    """A sender can change from one to the other without a gap."""
    source = load_source(
        presets, SHARED_SECRET, encode_public_key(OTHER), encode_public_key(PRIVATE)
    )
    known = sign_standard_webhook(SHARED_SECRET, delivery="m", timestamp_s=NOW_S, body=BODY)
    assert accepts(source, known)
    assert accepts(source, sign_v1a(PRIVATE))
    both = f"{sign_v1a(OTHER)['webhook-signature']} {sign_v1a(PRIVATE)['webhook-signature']}"
    assert accepts(
        load_source(presets, encode_public_key(PRIVATE)),
        sign_v1a(OTHER) | {"webhook-signature": both},
    )


def test_public_key_is_not_accepted_as_secret(presets: str) -> None:
    """Nobody can sign with it, or send it as a token."""
    key = encode_public_key(PRIVATE)
    source = load_source(presets, key)
    forged = [
        sign_standard_webhook(secret, delivery="m", timestamp_s=NOW_S, body=BODY)
        for secret in (key, key.replace("whpk_", "whsec_"))
    ]
    for headers in (*forged, {"authorization": f"Bearer {key}"}):
        assert not accepts(source, headers)


@pytest.mark.parametrize(
    "signature", ["v1a,", "v1a", "v1a,====", "v1a,\udcff", "v1a,AAAA", f"v1a,{'A' * 86}==", "v1,x"]
)
def test_malformed_ed25519_signature_is_not_genuine(presets: str, signature: str) -> None:
    """It never raises."""
    headers = sign_v1a(PRIVATE) | {"webhook-signature": signature}
    assert not accepts(load_source(presets, encode_public_key(PRIVATE)), headers)


def test_ninth_ed25519_signature_is_ignored(presets: str) -> None:
    """Verifying is expensive, and anybody may send a long header."""
    good = sign_v1a(PRIVATE)["webhook-signature"]
    source = load_source(presets, encode_public_key(PRIVATE))
    for others, is_genuine_ in ((7, True), (8, False)):
        header = " ".join([*[sign_v1a(OTHER)["webhook-signature"]] * others, good])
        assert accepts(source, sign_v1a(PRIVATE) | {"webhook-signature": header}) is is_genuine_


@pytest.mark.parametrize(
    ("secret", "preset", "extra_toml", "problem"),
    [
        ("whpk_AAAA", "native", "", "is not a public key: write whpk_ and the base64 of 32 bytes"),
        ("whpk_", "native", "", "is not a public key"),
        (
            encode_public_key(PRIVATE),
            "github",
            "",
            "is a public key (whpk_), and verify has no ed25519",
        ),
        (
            "x",
            "native",
            'verify = { ed25519 = "X", field = "v1a" }',
            "is not a public key (whpk_), and",
        ),
        ("x", "native", 'verify = { ed25519 = "X", signed = "" }', "the signed text must include"),
        ("x", "native", 'verify = { ed25519 = "X", algorithm = "sha1" }', "there is no such key"),
    ],
)
def test_unusable_public_key_is_a_source_error(
    presets: str, secret: str, preset: str, extra_toml: str, problem: str
) -> None:
    """The mistake is reported at start, before a webhook is rejected."""
    with pytest.raises(SourceError) as caught:
        load_source(presets, secret, preset=preset, extra_toml=extra_toml)
    assert problem in str(caught.value)
    assert encode_public_key(PRIVATE) not in str(caught.value)


def test_public_key_without_the_extra_is_a_source_error(
    presets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to install; a source loaded before accepts nothing."""
    before = load_source(presets, encode_public_key(PRIVATE))
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SourceError, match=r"pip install 'deployment-enricher\[ed25519\]'"):
        load_source(presets, encode_public_key(PRIVATE))
    assert not accepts(before, sign_v1a(PRIVATE))
    source = load_source(presets, SHARED_SECRET)
    headers = sign_standard_webhook(SHARED_SECRET, delivery="m", timestamp_s=NOW_S, body=BODY)
    assert accepts(source, headers)


def test_published_vector_of_svix_is_genuine(presets: str) -> None:
    """Svix publishes one vector of version v1a."""
    (vector,) = [vector for vector in require_signature_vectors() if vector["id"] == "sw-v1a"]
    source = load_source(presets, *vector["secrets"])
    request = SignedRequest(vector["headers"], {}, vector["body"].encode())
    assert is_genuine(source.checks, request, now_s=vector["now"])
