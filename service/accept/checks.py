"""Who sent these bytes? Somebody who knows one of the secrets, or nobody that we listen to.

Each scheme becomes a check once, when its source is loaded, with the keys that its secrets stand
for and its template taken apart: a request pays for nothing but its own bytes. Whatever is
malformed is not genuine; no check raises on what a sender sent.
"""

import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import assert_never

from service.accept.ed25519 import is_signed_by_any
from service.accept.signature import (
    Ed25519,
    Hmac,
    Scheme,
    Signed,
    SignedRequest,
    Token,
    Unverified,
    read_key,
    sign_bytes,
    takes_secret,
    to_bytes,
)

# 15 digits of seconds reach past the year 30,000,000: longer ones are no times.
_SECONDS = re.compile(rb"[0-9]{1,15}")
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")

Check = Callable[[SignedRequest, float], bool]
"""Tells whether a request is genuine at a time, in seconds since 1970."""

Fields = Mapping[str, str]
Part = Callable[[SignedRequest, Fields], bytes | None]
Match = Callable[[Sequence[bytes], bytes], bool]


def is_genuine(checks: Sequence[Check], request: SignedRequest, *, now_s: float) -> bool:
    """Tell whether any check vouches for a request."""
    return any(check(request, now_s) for check in checks)


def prepare_checks(schemes: Sequence[Scheme], secrets: Sequence[str]) -> tuple[Check, ...]:
    """Make every scheme ready with the secrets that are for it; one with none is left out."""
    return tuple(check for scheme in schemes for check in _prepare(scheme, secrets))


def _prepare(scheme: Scheme, secrets: Sequence[str]) -> Iterator[Check]:
    own = [secret for secret in secrets if takes_secret(scheme, secret)]
    match scheme:
        case Hmac():
            if keys := [key for key in (read_key(scheme, secret) for secret in own) if key]:
                yield _check_signature(scheme, _match_hmac(scheme, keys))
        case Ed25519():
            if own:
                yield _check_signature(scheme, _match_ed25519(own))
        case Token():
            if known := [claim for claim in map(to_bytes, own) if claim]:
                yield _check_token(scheme, known)
        case Unverified():
            yield lambda _, __: True
        case never:
            assert_never(never)


def _check_signature(scheme: Signed, match: Match) -> Check:
    header, field = scheme.header.lower(), scheme.field or ""
    split, fill, is_timely = _split_by(scheme), _fill_in(scheme.signed), _ask_time(scheme)

    def check(request: SignedRequest, now_s: float) -> bool:
        text = request.headers.get(header)
        if not text:
            return False
        items = split(text)
        fields = dict(items)
        if not is_timely(request, fields, now_s):
            return False
        signed = fill(request, fields)
        if signed is None:
            return False
        return match([to_bytes(claim) for name, claim in items if name == field], signed)

    return check


def _split_by(scheme: Signed) -> Callable[[str], list[tuple[str, str]]]:
    """Split a header into items, each the name of a field and its value."""
    items, sep = scheme.items, scheme.sep

    def split(header: str) -> list[tuple[str, str]]:
        if scheme.field is None:
            return [("", item.strip()) for item in header.split(items)]
        parts = [item.strip().partition(sep) for item in header.split(items)]
        return [(name, claim) for name, _, claim in parts]

    return split


def _fill_in(template: str) -> Part:
    """Fill a template in; None when a request lacks, or garbles, something that it names."""
    parts = [
        _look_up(text) if nth % 2 else _give(text)
        for nth, text in enumerate(_PLACEHOLDER.split(template))
        if text
    ]
    if len(parts) == 1:
        return parts[0]

    def fill(request: SignedRequest, fields: Fields) -> bytes | None:
        found: list[bytes] = []
        for part in parts:
            value = part(request, fields)
            if value is None:
                return None
            found.append(value)
        return b"".join(found)

    return fill


def _ask_time(scheme: Signed) -> Callable[[SignedRequest, Fields, float], bool]:
    if scheme.timestamp is None:
        return lambda *_: True
    read, past_s, future_s = _look_up(scheme.timestamp), scheme.past_s, scheme.future_s

    def is_timely(request: SignedRequest, fields: Fields, now_s: float) -> bool:
        text = read(request, fields)
        if text is None or not _SECONDS.fullmatch(text):
            return False
        return -future_s <= now_s - int(text) <= past_s

    return is_timely


def _give(text: str) -> Part:
    constant = text.encode()
    return lambda *_: constant


def _look_up(name: str) -> Part:
    """Look something of a request up, as the bytes that came; what is empty is not there."""
    if name == "body":
        return lambda request, _: request.body
    if name.startswith("@"):
        field = name[1:]
        return lambda _, fields: to_bytes(fields.get(field, "")) or None
    header = name.lower()
    return lambda request, _: to_bytes(request.headers.get(header, "")) or None


def _match_hmac(scheme: Hmac, keys: Sequence[bytes]) -> Match:
    # Comparing texts spares a decoder that skips junk; case is the only freedom that hex has.
    fold = bytes.lower if scheme.encoding == "hex" else bytes

    def match(claims: Sequence[bytes], signed: bytes) -> bool:
        expected = [sign_bytes(scheme, key, signed) for key in keys]
        # All of them, then one answer: the time taken must not tell which candidate came close.
        return True in [
            hmac.compare_digest(fold(claim), signature)
            for claim in claims
            for signature in expected
        ]

    return match


def _match_ed25519(secrets: Sequence[str]) -> Match:
    return lambda claims, signed: is_signed_by_any(secrets, claims=claims, signed=signed)


def _check_token(scheme: Token, known: Sequence[bytes]) -> Check:
    read = _read_query(scheme.query) if scheme.query is not None else _read_header(scheme)

    def check(request: SignedRequest, _: float) -> bool:
        claim = to_bytes(read(request))
        return True in [hmac.compare_digest(claim, secret) for secret in known]

    return check


def _read_query(name: str) -> Callable[[SignedRequest], str]:
    return lambda request: request.query.get(name, "")


def _read_header(scheme: Token) -> Callable[[SignedRequest], str]:
    header = (scheme.header or "").lower()
    if scheme.scheme is None:
        return lambda request: request.headers.get(header, "")
    wanted = scheme.scheme.lower()

    def read(request: SignedRequest) -> str:
        word, _, text = request.headers.get(header, "").partition(" ")
        # RFC 9110, 11.1: the name of an authentication scheme knows no case.
        return text.strip() if word.lower() == wanted else ""

    return read
