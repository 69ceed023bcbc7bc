"""How does a sender prove who it is? By a signature, by a secret that it shows, or not at all.

Facts that many senders share, as data: a header of signatures (GitHub, GitLab, CircleCI, Buildkite,
Standard Webhooks ...), a static token in a header or in the query, or, written out, no check.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.accept.ed25519 import decode_public_key, is_public_key

# As in the reference libraries of https://www.standardwebhooks.com: five minutes, both ways.
TIMESTAMP_TOLERANCE_S = 300

NonEmpty = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[int, Meta(ge=0)]


class SignatureScheme(Struct, frozen=True, kw_only=True):
    """A header of signatures of the body, and of what else the sender's template names.

    The header holds one signature, or several parted by ``items``; each is bare, or, when ``field``
    is given, ``<field><sep><signature>`` (items with other fields are passed over). ``signed`` is
    what was signed: ``{body}``, ``{Name-Of-A-Header}`` and ``{@field of the signature header}`` are
    filled in as they came. ``timestamp`` (a header, or ``@field``) holds whole seconds since 1970,
    which may lie ``past_s`` back and ``future_s`` ahead.
    """

    header: NonEmpty
    field: NonEmpty | None = None
    sep: NonEmpty = "="
    items: NonEmpty | None = None
    signed: str = "{body}"
    timestamp: NonEmpty | None = None
    past_s: Seconds = TIMESTAMP_TOLERANCE_S
    future_s: Seconds = TIMESTAMP_TOLERANCE_S


class Hmac(SignatureScheme, frozen=True, kw_only=True):
    """Signatures by a keyed digest: who verifies could sign."""

    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    secret_prefix: str = ""
    secret_encoding: Literal["utf8", "base64"] = "utf8"


class Ed25519(SignatureScheme, frozen=True, kw_only=True):
    """Signatures in base64 by a private key, verified by its public one (``whpk_...``)."""


class Token(Struct, frozen=True, kw_only=True):
    """The secret itself, in a header (after a ``scheme`` such as Bearer) or a query parameter."""

    header: NonEmpty | None = None
    scheme: NonEmpty | None = None
    query: NonEmpty | None = None


class Unverified(Struct, frozen=True):
    """Anybody may send: for networks that nobody else can reach."""


AuthScheme = Hmac | Ed25519 | Token | Unverified

STANDARD_WEBHOOKS = Hmac(
    header="webhook-signature",
    items=" ",
    sep=",",
    field="v1",
    encoding="base64",
    signed="{webhook-id}.{webhook-timestamp}.{body}",
    timestamp="webhook-timestamp",
    secret_prefix="whsec_",
    secret_encoding="base64",
)


class SignedRequest(Struct, frozen=True):
    """What a sender sent. Headers are asked for by their lower-case name."""

    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


def accepts_secret(scheme: AuthScheme, secret: str) -> bool:
    """Tell whether a secret may vouch: a public key only as what it is, for anybody may know it."""
    return isinstance(scheme, Unverified) or isinstance(scheme, Ed25519) is is_public_key(secret)


def is_usable_secret(scheme: AuthScheme, secret: str) -> bool:
    """Tell whether a secret can ever vouch: one that comes to no bytes at all must not."""
    match scheme:
        case Hmac():
            return bool(decode_hmac_key(scheme, secret))
        case Ed25519():
            return decode_public_key(secret) is not None
        case Token():
            return bool(secret)
        case Unverified():
            return True


def sign_standard_webhook(
    secret: str, *, delivery: str, timestamp_s: int, body: bytes
) -> dict[str, str]:
    """Give the three headers that Standard Webhooks adds to a body."""
    timestamp = str(timestamp_s)
    signed_bytes = f"{delivery}.{timestamp}.".encode() + body
    signature = sign_bytes(
        STANDARD_WEBHOOKS, decode_hmac_key(STANDARD_WEBHOOKS, secret), signed_bytes
    ).decode()
    return {
        "webhook-id": delivery,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def decode_hmac_key(scheme: Hmac, secret: str) -> bytes:
    """Give the bytes that a secret stands for; none at all must not sign."""
    text = secret.removeprefix(scheme.secret_prefix)
    if scheme.secret_encoding == "utf8":
        return encode_text(text)
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        # A secret that somebody made up by hand: the reference libraries would refuse it.
        return encode_text(text)


def sign_bytes(scheme: Hmac, key: bytes, signed_bytes: bytes) -> bytes:
    """Give the signature of some bytes, as it stands in a header."""
    digest = hmac.digest(key, signed_bytes, scheme.algorithm)
    return digest.hex().encode() if scheme.encoding == "hex" else b64encode(digest)


def encode_text(text: str) -> bytes:
    """Give the bytes as they came: aiohttp decodes headers as UTF-8 with surrogateescape."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b""
