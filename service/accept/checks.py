"""Who sent these bytes? Somebody who knows one of the secrets, or nobody that we listen to.

Each scheme becomes a check once, when its source is loaded, with the keys that its secrets stand
for and its template taken apart: a request pays for nothing but its own bytes. Whatever is
malformed is not genuine; no check raises on what a sender sent.
"""

import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import assert_never

from service.accept.ed25519 import is_ed25519_signed
from service.accept.signature import (
    AuthScheme,
    Ed25519,
    Hmac,
    SignatureScheme,
    SignedRequest,
    Token,
    Unverified,
    accepts_secret,
    decode_hmac_key,
    encode_text,
    sign_bytes,
)

# 15 digits of seconds reach past the year 30,000,000: longer ones are no times.
_TIMESTAMP_SECONDS = re.compile(rb"[0-9]{1,15}")
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")

RequestCheck = Callable[[SignedRequest, float], bool]
"""Tells whether a request is genuine at a time, in seconds since 1970."""

SignatureFields = Mapping[str, str]
TemplatePart = Callable[[SignedRequest, SignatureFields], bytes | None]
SignatureMatcher = Callable[[Sequence[bytes], bytes], bool]


def is_genuine(checks: Sequence[RequestCheck], request: SignedRequest, *, now_s: float) -> bool:
    """Tell whether any check vouches for a request."""
    return any(check(request, now_s) for check in checks)


def build_checks(schemes: Sequence[AuthScheme], secrets: Sequence[str]) -> tuple[RequestCheck, ...]:
    """Make every scheme ready with the secrets that are for it; one with none is left out."""
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
    """Split a header into items, each the name of a field and its value."""
    items, sep = scheme.items, scheme.sep

    def split_items(header: str) -> list[tuple[str, str]]:
        if scheme.field is None:
            return [("", item.strip()) for item in header.split(items)]
        parts = [item.strip().partition(sep) for item in header.split(items)]
        return [(name, value) for name, _, value in parts]

    return split_items


def _build_template_filler(template: str) -> TemplatePart:
    """Fill a template in; None when a request lacks, or garbles, something that it names."""
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
    """Look something of a request up, as the bytes that came; what is empty is not there."""
    if name == "body":
        return lambda request, _: request.body
    if name.startswith("@"):
        field = name[1:]
        return lambda _, fields: encode_text(fields.get(field, "")) or None
    header = name.lower()
    return lambda request, _: encode_text(request.headers.get(header, "")) or None


def _build_hmac_matcher(scheme: Hmac, keys: Sequence[bytes]) -> SignatureMatcher:
    # Comparing texts spares a decoder that skips junk; case is the only freedom that hex has.
    normalize = bytes.lower if scheme.encoding == "hex" else bytes

    def matches_any(candidates: Sequence[bytes], signed_bytes: bytes) -> bool:
        expected = [sign_bytes(scheme, key, signed_bytes) for key in keys]
        # All of them, then one answer: the time taken must not tell which candidate came close.
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
    get_token = (
        _build_query_getter(scheme.query)
        if scheme.query is not None
        else _build_header_getter(scheme)
    )

    def check(request: SignedRequest, _: float) -> bool:
        candidate = encode_text(get_token(request))
        return True in [hmac.compare_digest(candidate, token) for token in tokens]

    return check


def _build_query_getter(name: str) -> Callable[[SignedRequest], str]:
    return lambda request: request.query.get(name, "")


def _build_header_getter(scheme: Token) -> Callable[[SignedRequest], str]:
    header = (scheme.header or "").lower()
    if scheme.scheme is None:
        return lambda request: request.headers.get(header, "")
    expected_scheme = scheme.scheme.lower()

    def get_credentials(request: SignedRequest) -> str:
        auth_scheme, _, credentials = request.headers.get(header, "").partition(" ")
        # RFC 9110, 11.1: the name of an authentication scheme knows no case.
        return credentials.strip() if auth_scheme.lower() == expected_scheme else ""

    return get_credentials
