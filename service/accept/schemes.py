"""How is a written ``verify`` understood? As the schemes of signature.py, tried in order.

``{ hmac = "<header>" }`` with whatever else signature.Hmac knows, ``{ token = "<header>" }`` with a
``scheme`` or without, ``{ query = "<name>" }``, the name of a preset, a list, or ``"none"``.
"""

from collections.abc import Callable, Sequence
from typing import Any

from service.accept.signature import Hmac, Scheme, Token, Unverified, is_usable
from service.accept.tables import SourceError, Table, convert_table, refuse_unknown, suggest

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
        if not all(is_usable(scheme, secret) for scheme in schemes):
            what = f"{name_place(reference)} is empty; set it, or take it out"
            raise SourceError(what, key=("secrets", place))
        secrets.append(secret)
    return tuple(secrets)


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
    match sorted(table.keys() & {"hmac", "token", "query"}):
        case ["hmac"]:
            return _read_hmac(table)
        case ["token"]:
            refuse_unknown(table, ("token", "scheme"), key=_KEY)
            return convert_table(_named(table, "token"), Token, key=_KEY)
        case ["query"]:
            refuse_unknown(table, ("query",), key=_KEY)
            return convert_table(table, Token, key=_KEY)
        case _:
            raise SourceError("say hmac = <header>, token = <header> or query = <name>", key=_KEY)


def _read_hmac(table: Table) -> Hmac:
    known = ("hmac", *(field for field in Hmac.__struct_fields__ if field != "header"))
    refuse_unknown(table, known, key=_KEY)
    scheme = convert_table(_named(table, "hmac"), Hmac, key=_KEY)
    if "{body}" not in scheme.signed:
        raise SourceError("what is signed must include {body}", key=("verify", "signed"))
    return scheme


def _named(table: Table, kind: str) -> Table:
    """Give the table with the key that names the kind of scheme read as what it holds."""
    return {("header" if key == kind else key): value for key, value in table.items()}
