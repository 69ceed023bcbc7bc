"""Verification of webhooks: signatures, tokens, or none, each scheme described by data.

A scheme is a header of signatures (GitHub, GitLab, CircleCI, Buildkite, Standard Webhooks ...), a
static token in a header or in the URL, or, if written out, no verification.
"""

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from typing import Annotated, Literal, assert_never

from msgspec import Meta, Struct

PUBLIC_KEY_PREFIX = "whpk_"  # https://www.standardwebhooks.com: the base64 of the key follows

_PUBLIC_KEY_BYTES = 32
# Verifying one takes a tenth of a millisecond, and anybody may send a long header.
_MAX_ED25519_SIGNATURES = 8
_ED25519_PACKAGE = "cryptography"


def is_ed25519_installed() -> bool:
    """Return whether the extra ``ed25519`` is installed."""
    return find_spec(_ED25519_PACKAGE) is not None


def is_public_key(secret: str) -> bool:
    """Return whether a secret is a public key, which anybody may know and nobody may sign with."""
    return secret.startswith(PUBLIC_KEY_PREFIX)


def decode_public_key(secret: str) -> bytes | None:
    """Return the bytes of a public key as Standard Webhooks writes it; None if it is not valid."""
    key = _decode_base64(secret.removeprefix(PUBLIC_KEY_PREFIX).encode("utf-8", "replace"))
    return key if is_public_key(secret) and len(key) == _PUBLIC_KEY_BYTES else None


def is_ed25519_signed(
    secrets: Sequence[str], *, signatures: Sequence[bytes], signed_bytes: bytes
) -> bool:
    """Return whether a signature, in base64, verifies with one of the public keys.

    Without the extra ``ed25519`` no signature does.
    """
    try:
        ed25519 = import_module(f"{_ED25519_PACKAGE}.hazmat.primitives.asymmetric.ed25519")
        invalid_signature = import_module(f"{_ED25519_PACKAGE}.exceptions").InvalidSignature
    except ImportError:
        return False
    keys = [key for key in map(decode_public_key, secrets) if key is not None]
    for key, signature in product(keys, signatures[:_MAX_ED25519_SIGNATURES]):
        with suppress(invalid_signature, ValueError):
            ed25519.Ed25519PublicKey.from_public_bytes(key).verify(
                _decode_base64(signature), signed_bytes
            )
            return True
    return False


def _decode_base64(text: bytes) -> bytes:
    try:
        return b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        return b""


# The reference libraries of https://www.standardwebhooks.com allow five minutes, past and future.
TIMESTAMP_TOLERANCE_S = 300

NonEmpty = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[int, Meta(ge=0)]


class SignatureScheme(Struct, frozen=True, kw_only=True):
    """A header of signatures over the body, and over more if ``signed`` names more.

    The header holds one signature, or several that ``items`` separates. Each is bare, or, if
    ``field`` is set, ``<field><sep><signature>``; items with other fields are ignored. ``signed``
    is the template of the signed bytes: ``{body}``, ``{Name-Of-A-Header}`` and ``{@field of the
    signature header}`` are replaced by the bytes of the request. ``timestamp`` (a header, or
    ``@field``) holds whole seconds since 1970, at most ``past_s`` ago and ``future_s`` ahead.
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
    """Signatures by a keyed digest, with a secret that sender and receiver share."""

    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    secret_prefix: str = ""
    secret_encoding: Literal["utf8", "base64"] = "utf8"


class Ed25519(SignatureScheme, frozen=True, kw_only=True):
    """Signatures in base64 by a private key, verified with its public key (``whpk_...``)."""


class Token(Struct, frozen=True, kw_only=True):
    """The secret itself, in a header (after a ``scheme`` such as Bearer) or a query parameter."""

    header: NonEmpty | None = None
    scheme: NonEmpty | None = None
    query: NonEmpty | None = None


class Unverified(Struct, frozen=True):
    """No verification: for networks that only trusted senders can reach."""


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
    """The parts of a request that a sender may sign. Headers are looked up by lower-case name."""

    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


def accepts_secret(scheme: AuthScheme, secret: str) -> bool:
    """Return whether a scheme may use a secret: Ed25519 only public keys, others only secrets."""
    return isinstance(scheme, Unverified) or isinstance(scheme, Ed25519) is is_public_key(secret)


def is_usable_secret(scheme: AuthScheme, secret: str) -> bool:
    """Return whether a secret can verify anything; an empty one must not."""
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
    """Return the three headers that Standard Webhooks adds to a body."""
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
    """Return the key bytes of a secret; empty bytes must not be used as a key."""
    text = secret.removeprefix(scheme.secret_prefix)
    if scheme.secret_encoding == "utf8":
        return encode_text(text)
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        # A secret written by hand, which the reference libraries would refuse.
        return encode_text(text)


def sign_bytes(scheme: Hmac, key: bytes, signed_bytes: bytes) -> bytes:
    """Return the signature of some bytes, encoded as in the header."""
    return _encode_digest(scheme, hmac.digest(key, signed_bytes, scheme.algorithm))


def _encode_digest(scheme: Hmac, digest: bytes) -> bytes:
    return digest.hex().encode() if scheme.encoding == "hex" else b64encode(digest)


def encode_text(text: str) -> bytes:
    """Return the received bytes: aiohttp decodes headers as UTF-8 with surrogateescape."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b""


# 15 digits of seconds reach past the year 30,000,000; longer numbers are not timestamps.
_TIMESTAMP_SECONDS = re.compile(rb"[0-9]{1,15}")
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")

RequestCheck = Callable[[SignedRequest, float], bool]
"""Returns whether a request is genuine at a time, in seconds since 1970."""

SignatureFields = Mapping[str, str]
TemplatePart = Callable[[SignedRequest, SignatureFields], bytes | None]
SignatureMatcher = Callable[[Sequence[bytes], bytes], bool]
TokenGetter = Callable[[SignedRequest], tuple[str, ...]]


def is_genuine(checks: Sequence[RequestCheck], request: SignedRequest, *, now_s: float) -> bool:
    """Return whether a request passes one of the checks."""
    return any(check(request, now_s) for check in checks)


def build_checks(schemes: Sequence[AuthScheme], secrets: Sequence[str]) -> tuple[RequestCheck, ...]:
    """Return a check for each scheme with its secrets; a scheme without secrets has none."""
    return tuple(check for scheme in schemes for check in _build_scheme_checks(scheme, secrets))


def _build_scheme_checks(scheme: AuthScheme, secrets: Sequence[str]) -> Iterator[RequestCheck]:
    scheme_secrets = [secret for secret in secrets if accepts_secret(scheme, secret)]
    match scheme:
        case Hmac():
            if keys := [
                key for key in (decode_hmac_key(scheme, secret) for secret in scheme_secrets) if key
            ]:
                yield _build_signature_check(scheme, _build_hmac_matcher(scheme, keys))
        case Ed25519():
            if scheme_secrets:
                yield _build_signature_check(scheme, _build_ed25519_matcher(scheme_secrets))
        case Token():
            if tokens := [token for token in map(encode_text, scheme_secrets) if token]:
                yield _build_token_check(scheme, tokens)
        case Unverified():
            yield lambda _, __: True
        case never:
            assert_never(never)


def _build_signature_check(scheme: SignatureScheme, matches_any: SignatureMatcher) -> RequestCheck:
    header, field = scheme.header.lower(), scheme.field or ""
    split_items, fill_template, is_recent = (
        _build_item_splitter(scheme),
        _build_template_filler(scheme.signed),
        _build_timestamp_check(scheme),
    )

    def check(request: SignedRequest, now_s: float) -> bool:
        header_value = request.headers.get(header)
        if not header_value:
            return False
        items = split_items(header_value)
        fields = dict(items)
        if not is_recent(request, fields, now_s):
            return False
        signed_bytes = fill_template(request, fields)
        if signed_bytes is None:
            return False
        return matches_any(
            [encode_text(candidate) for name, candidate in items if name == field], signed_bytes
        )

    return check


def _build_item_splitter(scheme: SignatureScheme) -> Callable[[str], list[tuple[str, str]]]:
    """Return a function that splits a header into items, each a field and its value."""
    items, sep = scheme.items, scheme.sep

    def split_items(header: str) -> list[tuple[str, str]]:
        if scheme.field is None:
            return [("", item.strip()) for item in header.split(items)]
        parts = [item.strip().partition(sep) for item in header.split(items)]
        return [(name, value) for name, _, value in parts]

    return split_items


def _build_template_filler(template: str) -> TemplatePart:
    """Return a function that fills in a template; it returns None if the request lacks a part."""
    parts = [
        _build_request_part(text) if index % 2 else _build_constant_part(text)
        for index, text in enumerate(_PLACEHOLDER.split(template))
        if text
    ]
    if len(parts) == 1:
        return parts[0]

    def fill_template(request: SignedRequest, fields: SignatureFields) -> bytes | None:
        values: list[bytes] = []
        for part in parts:
            value = part(request, fields)
            if value is None:
                return None
            values.append(value)
        return b"".join(values)

    return fill_template


def _build_timestamp_check(
    scheme: SignatureScheme,
) -> Callable[[SignedRequest, SignatureFields, float], bool]:
    if scheme.timestamp is None:
        return lambda *_: True
    get_timestamp, past_s, future_s = (
        _build_request_part(scheme.timestamp),
        scheme.past_s,
        scheme.future_s,
    )

    def is_recent(request: SignedRequest, fields: SignatureFields, now_s: float) -> bool:
        timestamp = get_timestamp(request, fields)
        if timestamp is None or not _TIMESTAMP_SECONDS.fullmatch(timestamp):
            return False
        return -future_s <= now_s - int(timestamp) <= past_s

    return is_recent


def _build_constant_part(text: str) -> TemplatePart:
    constant = text.encode()
    return lambda *_: constant


def _build_request_part(name: str) -> TemplatePart:
    """Return a function that reads a part of a request as bytes; None for an empty one."""
    if name == "body":
        return lambda request, _: request.body
    if name.startswith("@"):
        field = name[1:]
        return lambda _, fields: encode_text(fields.get(field, "")) or None
    header = name.lower()
    return lambda request, _: encode_text(request.headers.get(header, "")) or None


def _build_hmac_matcher(scheme: Hmac, keys: Sequence[bytes]) -> SignatureMatcher:
    # Comparing encoded text needs no decoder, which might skip junk; hex may differ in case only.
    normalize = bytes.lower if scheme.encoding == "hex" else bytes
    keyed_macs = [hmac.new(key, digestmod=scheme.algorithm) for key in keys]

    def sign(keyed_mac: hmac.HMAC, signed_bytes: bytes) -> bytes:
        mac = keyed_mac.copy()  # OpenSSL looks up the algorithm and prepares the key only once
        mac.update(signed_bytes)
        return _encode_digest(scheme, mac.digest())

    def matches_any(candidates: Sequence[bytes], signed_bytes: bytes) -> bool:
        expected = [sign(keyed_mac, signed_bytes) for keyed_mac in keyed_macs]
        # Every pair is compared: the time taken must not reveal which candidate matched.
        return True in [
            hmac.compare_digest(normalize(candidate), signature)
            for candidate in candidates
            for signature in expected
        ]

    return matches_any


def _build_ed25519_matcher(secrets: Sequence[str]) -> SignatureMatcher:
    return lambda candidates, signed_bytes: is_ed25519_signed(
        secrets, signatures=candidates, signed_bytes=signed_bytes
    )


def _build_token_check(scheme: Token, tokens: Sequence[bytes]) -> RequestCheck:
    get_candidates = (
        _build_query_getter(scheme.query)
        if scheme.query is not None
        else _build_header_getter(scheme)
    )

    def check(request: SignedRequest, _: float) -> bool:
        candidates = [encode_text(candidate) for candidate in get_candidates(request)]
        # Every pair is compared: the time taken must not reveal which candidate matched.
        return True in [
            hmac.compare_digest(candidate, token) for candidate in candidates for token in tokens
        ]

    return check


def _build_query_getter(name: str) -> TokenGetter:
    """Return a function that reads a parameter: as decoded, and with ``+`` for each space.

    A ``+`` in a URL means a space, and most secrets in base64 have one. A user who pastes such a
    secret into a URL does not write it as ``%2B``.
    """

    def get_candidates(request: SignedRequest) -> tuple[str, ...]:
        value = request.query.get(name, "")
        return value, value.replace(" ", "+")

    return get_candidates


def _build_header_getter(scheme: Token) -> TokenGetter:
    header = (scheme.header or "").lower()
    if scheme.scheme is None:
        return lambda request: (request.headers.get(header, ""),)
    expected_scheme = scheme.scheme.lower()

    def get_credentials(request: SignedRequest) -> tuple[str, ...]:
        auth_scheme, _, credentials = request.headers.get(header, "").partition(" ")
        # RFC 9110, 11.1: the name of an authentication scheme is case-insensitive.
        return (credentials.strip() if auth_scheme.lower() == expected_scheme else "",)

    return get_credentials
