"""Is a public key enough to know a sender? For its own signatures, and for nothing else."""

import json
import sys
from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.accept.signatures import SignedRequest, is_genuine, sign_standard_webhook
from service.accept.sources import Source, SourceError, load_sources
from tests.vendor_samples import require_signature_vectors

NOW_S = 1_760_000_000
BODY = b'{"eventType":"finished"}'
SHARED_SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cyE="
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def encode_public_key(private: Ed25519PrivateKey) -> str:
    """Write the public key as Standard Webhooks does."""
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"whpk_{b64encode(raw).decode()}"


def sign_v1a(
    private: Ed25519PrivateKey, *, timestamp: int = NOW_S, body: bytes = BODY
) -> dict[str, str]:
    """Sign as Standard Webhooks says, version v1a."""
    signature = private.sign(f"msg_1.{timestamp}.".encode() + body)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1a,{b64encode(signature).decode()}",
    }


def load_source(
    presets: str, *secrets: str, preset: str = "native", extra_toml: str = ""
) -> Source:
    """Load a source with some secrets."""
    head = f'[[source]]\nname = "s"\npreset = "{preset}"\n'
    text = f"{head}secrets = {json.dumps(secrets)}\n{extra_toml}\n"
    return load_sources(text, presets=presets, read_secret=str)["s"]


def accepts(source: Source, headers: dict[str, str], *, body: bytes = BODY) -> bool:
    """Ask whether a source takes a request for genuine."""
    request = SignedRequest(headers, {}, body)
    return is_genuine(source.checks, request, now_s=NOW_S)


@pytest.mark.parametrize("preset", ["native", "gitlab", "render"])
def test_whoever_holds_the_private_key_is_known(presets: str, preset: str) -> None:
    """Wherever Standard Webhooks are; nobody else, nothing else, and not for ever."""
    source = load_source(presets, encode_public_key(PRIVATE), preset=preset)
    assert accepts(source, sign_v1a(PRIVATE))
    assert not accepts(source, sign_v1a(OTHER))
    assert not accepts(source, sign_v1a(PRIVATE), body=BODY + b" ")
    assert not accepts(source, sign_v1a(PRIVATE) | {"webhook-id": "msg_2"})
    assert accepts(source, sign_v1a(PRIVATE, timestamp=NOW_S - 300))
    assert not accepts(source, sign_v1a(PRIVATE, timestamp=NOW_S - 301))


def test_keys_and_secrets_of_both_kinds_may_be_live_at_once(presets: str) -> None:
    """A sender goes over from one to the other without a gap."""
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


def test_a_public_key_is_no_secret(presets: str) -> None:
    """Whoever knows it can neither sign with it nor show it as a token."""
    key = encode_public_key(PRIVATE)
    source = load_source(presets, key)
    forged = [
        sign_standard_webhook(secret, delivery="m", timestamp_s=NOW_S, body=BODY)
        for secret in (key, key.replace("whpk_", "whsec_"))
    ]
    for headers in (*forged, {"authorization": f"Bearer {key}"}):
        assert not accepts(source, headers)


@pytest.mark.parametrize(
    "claim", ["v1a,", "v1a", "v1a,====", "v1a,\udcff", "v1a,AAAA", f"v1a,{'A' * 86}==", "v1,x"]
)
def test_what_is_malformed_is_not_genuine(presets: str, claim: str) -> None:
    """Never an exception."""
    headers = sign_v1a(PRIVATE) | {"webhook-signature": claim}
    assert not accepts(load_source(presets, encode_public_key(PRIVATE)), headers)


def test_a_long_header_costs_little(presets: str) -> None:
    """Verifying is dear, and anybody may ask for it: the ninth claim is not looked at."""
    good = sign_v1a(PRIVATE)["webhook-signature"]
    source = load_source(presets, encode_public_key(PRIVATE))
    for others, known in ((7, True), (8, False)):
        header = " ".join([*[sign_v1a(OTHER)["webhook-signature"]] * others, good])
        assert accepts(source, sign_v1a(PRIVATE) | {"webhook-signature": header}) is known


@pytest.mark.parametrize(
    ("secret", "preset", "more", "fault"),
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
def test_a_key_that_can_verify_nothing_is_told_at_the_start(
    presets: str, secret: str, preset: str, more: str, fault: str
) -> None:
    """Before a sender is turned away for it."""
    with pytest.raises(SourceError) as caught:
        load_source(presets, secret, preset=preset, extra_toml=more)
    assert fault in str(caught.value)
    assert encode_public_key(PRIVATE) not in str(caught.value)


def test_without_the_extra_a_key_is_refused_and_a_secret_is_not(
    presets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to install; a source that was loaded before turns nobody in."""
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
    (vector,) = [one for one in require_signature_vectors() if one["id"] == "sw-v1a"]
    source = load_source(presets, *vector["secrets"])
    request = SignedRequest(vector["headers"], {}, vector["body"].encode())
    assert is_genuine(source.checks, request, now_s=vector["now"])
