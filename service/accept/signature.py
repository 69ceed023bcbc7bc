"""Who sent these bytes? Somebody who knows one of the secrets, or nobody that we listen to.

Facts that many senders share, as data: a header of signatures (GitHub, GitLab, CircleCI, Buildkite,
Standard Webhooks ...), a static token in a header or in the query, or, written out, no check.
Whatever is malformed is not genuine; nothing in this file raises on what a sender sent.
"""

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.accept.ed25519 import is_public_key, is_signed_by_any, read_public_key

# As in the reference libraries of https://www.standardwebhooks.com: five minutes, both ways.
TOLERANCE_S = 300

# 15 digits of seconds reach past the year 30,000,000: longer ones are no times.
_SECONDS = re.compile(rb"[0-9]{1,15}")
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")

NonEmpty = Annotated[str, Meta(min_length=1)]


class Signed(Struct, frozen=True, kw_only=True):
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
    past_s: int = TOLERANCE_S
    future_s: int = TOLERANCE_S


class Hmac(Signed, frozen=True, kw_only=True):
    """Signatures by a keyed digest: who verifies could sign."""

    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    secret_prefix: str = ""
    secret_encoding: Literal["utf8", "base64"] = "utf8"


class Ed25519(Signed, frozen=True, kw_only=True):
    """Signatures in base64 by a private key, verified by its public one (``whpk_...``)."""


class Token(Struct, frozen=True, kw_only=True):
    """The secret itself, in a header (after a ``scheme`` such as Bearer) or a query parameter."""

    header: NonEmpty | None = None
    scheme: NonEmpty | None = None
    query: NonEmpty | None = None


class Unverified(Struct, frozen=True):
    """Anybody may send: for networks that nobody else can reach."""


Scheme = Hmac | Ed25519 | Token | Unverified

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


def is_genuine(
    schemes: Sequence[Scheme], *, secrets: Sequence[str], request: SignedRequest, now_s: float
) -> bool:
    """Tell whether any scheme, with any of the secrets, vouches for the request at ``now_s``."""
    return any(_vouches(scheme, secrets, request, now_s) for scheme in schemes)


def takes_secret(scheme: Scheme, secret: str) -> bool:
    """Tell whether a secret may vouch: a public key only as what it is, for anybody may know it."""
    return isinstance(scheme, Unverified) or isinstance(scheme, Ed25519) is is_public_key(secret)


def is_usable(scheme: Scheme, secret: str) -> bool:
    """Tell whether a secret can ever vouch: one that comes to no bytes at all must not."""
    match scheme:
        case Hmac():
            return bool(_key_of(scheme, secret))
        case Ed25519():
            return read_public_key(secret) is not None
        case Token():
            return bool(secret)
        case Unverified():
            return True


def sign_standard_webhook(
    secret: str, *, delivery: str, timestamp_s: int, body: bytes
) -> dict[str, str]:
    """Give the three headers that Standard Webhooks adds to a body."""
    stamp = str(timestamp_s)
    signed = f"{delivery}.{stamp}.".encode() + body
    signature = _signature(STANDARD_WEBHOOKS, _key_of(STANDARD_WEBHOOKS, secret), signed).decode()
    return {
        "webhook-id": delivery,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{signature}",
    }


def _vouches(scheme: Scheme, secrets: Sequence[str], request: SignedRequest, now_s: float) -> bool:
    own = [secret for secret in secrets if takes_secret(scheme, secret)]
    match scheme:
        case Hmac() | Ed25519():
            return _has_signature(scheme, own, request, now_s)
        case Token():
            return _has_token(scheme, own, request)
        case Unverified():
            return True


def _has_signature(
    scheme: Hmac | Ed25519, secrets: Sequence[str], request: SignedRequest, now_s: float
) -> bool:
    header = request.headers.get(scheme.header.lower())
    if not header:
        return False
    items = [_split_item(scheme, item) for item in header.split(scheme.items)]
    fields = dict(items)
    signed = _signed_bytes(scheme, request, fields)
    if signed is None or not _is_timely(scheme, request, fields, now_s):
        return False
    claims = [_to_bytes(claim) for name, claim in items if name == (scheme.field or "")]
    if isinstance(scheme, Ed25519):
        return is_signed_by_any(secrets, claims=claims, signed=signed)
    keys = [key for key in (_key_of(scheme, secret) for secret in secrets) if key]
    expected = [_signature(scheme, key, signed) for key in keys]
    # Comparing texts spares a decoder that skips junk; case is the only freedom that hex has.
    fold = bytes.lower if scheme.encoding == "hex" else bytes
    # All of them, then one answer: the time taken must not tell which candidate came close.
    return True in [
        hmac.compare_digest(fold(claim), signature) for claim in claims for signature in expected
    ]


def _has_token(scheme: Token, secrets: Sequence[str], request: SignedRequest) -> bool:
    if scheme.query is not None:
        text = request.query.get(scheme.query, "")
    else:
        text = request.headers.get((scheme.header or "").lower(), "")
        if scheme.scheme is not None:
            word, _, text = text.partition(" ")
            # RFC 9110, 11.1: the name of an authentication scheme knows no case.
            text = text.strip() if word.lower() == scheme.scheme.lower() else ""
    claim = _to_bytes(text)
    known = [_to_bytes(secret) for secret in secrets]
    return True in [hmac.compare_digest(claim, secret) for secret in known if secret]


def _split_item(scheme: Signed, item: str) -> tuple[str, str]:
    if scheme.field is None:
        return "", item.strip()
    name, _, claim = item.strip().partition(scheme.sep)
    return name, claim


def _signed_bytes(
    scheme: Signed, request: SignedRequest, fields: Mapping[str, str]
) -> bytes | None:
    """Fill the template in; None when the request lacks, or garbles, something that it names."""
    if scheme.signed == "{body}":
        return request.body
    parts: list[bytes] = []
    for index, text in enumerate(_PLACEHOLDER.split(scheme.signed)):
        if index % 2 == 0:
            parts.append(text.encode())
        elif text == "body":
            parts.append(request.body)
        elif value := _to_bytes(_look_up(text, request, fields)):
            parts.append(value)
        else:
            return None
    return b"".join(parts)


def _is_timely(
    scheme: Signed, request: SignedRequest, fields: Mapping[str, str], now_s: float
) -> bool:
    if scheme.timestamp is None:
        return True
    text = _to_bytes(_look_up(scheme.timestamp, request, fields))
    if not _SECONDS.fullmatch(text):
        return False
    return -scheme.future_s <= now_s - int(text) <= scheme.past_s


def _look_up(name: str, request: SignedRequest, fields: Mapping[str, str]) -> str:
    if name.startswith("@"):
        return fields.get(name[1:], "")
    return request.headers.get(name.lower(), "")


def _signature(scheme: Hmac, key: bytes, signed: bytes) -> bytes:
    digest = hmac.digest(key, signed, scheme.algorithm)
    return digest.hex().encode() if scheme.encoding == "hex" else b64encode(digest)


def _key_of(scheme: Hmac, secret: str) -> bytes:
    text = secret.removeprefix(scheme.secret_prefix)
    if scheme.secret_encoding == "utf8":
        return _to_bytes(text)
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        # A secret that somebody made up by hand: the reference libraries would refuse it.
        return _to_bytes(text)


def _to_bytes(text: str) -> bytes:
    """Give the bytes as they came: aiohttp decodes headers as UTF-8 with surrogateescape."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b""
