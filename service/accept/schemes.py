"""How is a written ``verify`` understood? As the schemes of signature.py, tried in order.

``{ hmac = "<header>" }`` with whatever else signature.Hmac knows, ``{ ed25519 = "<header>" }`` with
whatever else signature.Ed25519 knows, ``{ token = "<header>" }`` with a
``scheme`` or without, ``{ query = "<name>" }``, the name of a preset, a list, or ``"none"``.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from service.accept.ed25519 import can_verify, is_public_key, read_public_key
from service.accept.lines import KeyPath
from service.accept.signature import (
    Ed25519,
    Hmac,
    Scheme,
    Signed,
    Token,
    Unverified,
    is_usable,
    takes_secret,
)
from service.accept.tables import SourceError, Table, convert_table, refuse_unknown, suggest

S = TypeVar("S", bound=Signed)
ReadSecret = Callable[[str], str | None]
"""Gives what a reference stands for; None where it may be missing, for nothing will be served."""

_KEY = ("verify",)
_REFERENCES = ("env:", "file:")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


def read_schemes(verify: Any, presets: Table, *, key: KeyPath = _KEY) -> tuple[Scheme, ...]:
    """Read ``verify``, which stands under ``key``; raises SourceError."""
    match verify:
        case None | "" | [] | ():
            raise SourceError(
                'say how its webhooks are verified, or write verify = "none"', key=key
            )
        case "none":
            return (Unverified(),)
        case str() if verify in presets:
            others = {name: preset for name, preset in presets.items() if name != verify}
            return read_schemes(presets[verify].get("verify"), others, key=key)
        case str():
            raise SourceError(f"there is no preset {verify!r}{suggest(verify, presets)}", key=key)
        case list():
            schemes = tuple(
                scheme
                for place, one in enumerate(verify)
                for scheme in read_schemes(one, presets, key=(*key, place))
            )
            if len(schemes) > 1 and Unverified() in schemes:
                raise SourceError('"none" lets everybody in: write it alone or drop it', key=key)
            return schemes
        case _:
            return (_read_scheme(verify, key),)


def read_secrets(
    references: Sequence[str], schemes: Sequence[Scheme], read_secret: ReadSecret
) -> tuple[str, ...]:
    """Resolve ``env:X`` and ``file:/y`` by ``read_secret``; anything else is the secret itself."""
    if not references and Unverified() not in schemes:
        raise SourceError('there are none; add one, such as "env:WEBHOOK_SECRET"', key=("secrets",))
    secrets: list[str] = []
    for place, reference in enumerate(references):
        try:
            secret = resolve_secret(reference, read_secret)
        except LookupError as error:
            raise SourceError(f"{error}; set it, or take it out", key=("secrets", place)) from None
        if secret is None:
            continue
        if name_place(reference) != reference and reference.lower().startswith(_REFERENCES):
            raise SourceError("write env: and file: in small letters", key=("secrets", place))
        if fault := _find_fault(secret, schemes):
            raise SourceError(f"{name_place(reference)} {fault}", key=("secrets", place))
        secrets.append(secret)
    return tuple(secrets)


def _find_fault(secret: str, schemes: Sequence[Scheme]) -> str | None:
    """Say why a secret could not vouch for anybody, and what to do."""
    asking = [scheme for scheme in schemes if takes_secret(scheme, secret)]
    if is_public_key(secret):
        if not asking:
            return "is a public key (whpk_), and verify has no ed25519: take it out"
        if not can_verify():
            return "is a public key (whpk_): pip install 'deployment-enricher[ed25519]'"
        if read_public_key(secret) is None:
            return "is no public key: whpk_ and the base64 of 32 bytes are wanted"
    elif not all(is_usable(scheme, secret) for scheme in asking):
        return "is empty; set it, or take it out"
    elif not asking:
        return "is no public key (whpk_), and verify has only ed25519: take it out"
    return None


def resolve_secret(reference: str, read_secret: ReadSecret) -> str | None:
    """Give the secret that a reference stands for; LookupError says why there is none."""
    if not reference.startswith(_REFERENCES):
        return reference
    try:
        secret = read_secret(reference)
    except LookupError:
        raise LookupError(f"{reference} is not set") from None
    except UnicodeDecodeError:
        raise LookupError(f"{reference} cannot be read: it is no UTF-8 text") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LookupError(f"{reference} cannot be read: {reason}") from None
    # Files and many secret stores end a secret with a line break that nobody meant.
    return secret and secret.rstrip("\r\n")


def name_place(reference: str) -> str:
    """Say where a secret comes from, without saying it."""
    return reference if reference.startswith(_REFERENCES) else "written in the file"


def _read_scheme(table: Table, key: KeyPath) -> Scheme:
    match sorted(table.keys() & {"hmac", "ed25519", "token", "query"}):
        case ["hmac"]:
            return _read_signed(table, "hmac", Hmac, key)
        case ["ed25519"]:
            return _read_signed(table, "ed25519", Ed25519, key)
        case ["token"]:
            refuse_unknown(table, ("token", "scheme"), key=key)
            return convert_table(_named(table, "token", key), Token, key=key)
        case ["query"]:
            refuse_unknown(table, ("query",), key=key)
            return convert_table(table, Token, key=key)
        case _:
            what = "say hmac = <header>, ed25519 = <header>, token = <header> or query = <name>"
            raise SourceError(what, key=key)


def _read_signed(table: Table, kind: str, to: type[S], key: KeyPath) -> S:
    known = (kind, *(field for field in to.__struct_fields__ if field != "header"))
    refuse_unknown(table, known, key=key)
    scheme = convert_table(_named(table, kind, key), to, key=key)
    stamp = f"{{{scheme.timestamp}}}"
    if "{body}" not in scheme.signed:
        raise SourceError("what is signed must include {body}", key=(*key, "signed"))
    if scheme.timestamp is not None and stamp.lower() not in scheme.signed.lower():
        what = f"whoever repeats a webhook could change it: {stamp} must be in what is signed"
        raise SourceError(what, key=(*key, "timestamp"))
    if scheme.field is None and "{@" in scheme.signed:
        what = "{@...} is a field of the signature header: say which field is the signature"
        raise SourceError(what, key=(*key, "signed"))
    return scheme


def _named(table: Table, kind: str, key: KeyPath) -> Table:
    """Give the table with the key that names the kind of scheme read as what it holds."""
    if not isinstance(table[kind], str) or not _HEADER.fullmatch(table[kind]):
        raise SourceError("this is no name of a header", key=(*key, kind))
    return {("header" if name == kind else name): value for name, value in table.items()}
