"""How is a written ``verify`` understood? As the schemes of signature.py, tried in order.

``{ hmac = "<header>" }`` with whatever else signature.Hmac knows, ``{ ed25519 = "<header>" }`` with
whatever else signature.Ed25519 knows, ``{ token = "<header>" }`` with a
``scheme`` or without, ``{ query = "<name>" }``, the name of a preset, a list, or ``"none"``.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from service.accept.ed25519 import can_verify, is_public_key, read_public_key
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
ReadSecret = Callable[[str], str]

_KEY = ("verify",)
_REFERENCES = ("env:", "file:")


def read_schemes(verify: Any, presets: Table) -> tuple[Scheme, ...]:
    """Read ``verify``; raises SourceError."""
    match verify:
        case None | "" | [] | ():
            raise SourceError(
                'say how its webhooks are verified, or write verify = "none"', key=_KEY
            )
        case "none":
            return (Unverified(),)
        case str() if verify in presets:
            others = {name: preset for name, preset in presets.items() if name != verify}
            return read_schemes(presets[verify].get("verify"), others)
        case str():
            raise SourceError(f"there is no preset {verify!r}{suggest(verify, presets)}", key=_KEY)
        case list():
            schemes = tuple(scheme for one in verify for scheme in read_schemes(one, presets))
            if len(schemes) > 1 and Unverified() in schemes:
                raise SourceError('"none" lets everybody in: write it alone or drop it', key=_KEY)
            return schemes
        case _:
            return (_read_scheme(verify),)


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


def resolve_secret(reference: str, read_secret: ReadSecret) -> str:
    """Give the secret that a reference stands for; LookupError says why there is none."""
    if not reference.startswith(_REFERENCES):
        return reference
    try:
        # Files and many secret stores end a secret with a line break that nobody meant.
        return read_secret(reference).rstrip("\r\n")
    except LookupError:
        raise LookupError(f"{reference} is not set") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise LookupError(f"{reference} cannot be read: {reason}") from None


def name_place(reference: str) -> str:
    """Say where a secret comes from, without saying it."""
    return reference if reference.startswith(_REFERENCES) else "written in the file"


def _read_scheme(table: Table) -> Scheme:
    match sorted(table.keys() & {"hmac", "ed25519", "token", "query"}):
        case ["hmac"]:
            return _read_signed(table, "hmac", Hmac)
        case ["ed25519"]:
            return _read_signed(table, "ed25519", Ed25519)
        case ["token"]:
            refuse_unknown(table, ("token", "scheme"), key=_KEY)
            return convert_table(_named(table, "token"), Token, key=_KEY)
        case ["query"]:
            refuse_unknown(table, ("query",), key=_KEY)
            return convert_table(table, Token, key=_KEY)
        case _:
            what = "say hmac = <header>, ed25519 = <header>, token = <header> or query = <name>"
            raise SourceError(what, key=_KEY)


def _read_signed(table: Table, kind: str, to: type[S]) -> S:
    known = (kind, *(field for field in to.__struct_fields__ if field != "header"))
    refuse_unknown(table, known, key=_KEY)
    scheme = convert_table(_named(table, kind), to, key=_KEY)
    if "{body}" not in scheme.signed:
        raise SourceError("what is signed must include {body}", key=("verify", "signed"))
    return scheme


def _named(table: Table, kind: str) -> Table:
    """Give the table with the key that names the kind of scheme read as what it holds."""
    return {("header" if key == kind else key): value for key, value in table.items()}
