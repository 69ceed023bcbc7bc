"""How is a written ``verify`` understood? As the schemes of signature.py, tried in order.

``{ hmac = "<header>" }`` with whatever else signature.Hmac knows, ``{ token = "<header>" }`` with a
``scheme`` or without, ``{ query = "<name>" }``, the name of a preset, a list, or ``"none"``.
"""

from collections.abc import Callable, Sequence
from typing import Any

from service.accept.signature import Hmac, Scheme, Token, Unverified, is_usable
from service.accept.tables import SourceError, Table, convert_table, refuse_unknown, suggest

ReadSecret = Callable[[str], str]


def read_schemes(verify: Any, presets: Table) -> tuple[Scheme, ...]:
    """Read ``verify``; raises SourceError."""
    match verify:
        case None | "" | [] | ():
            raise SourceError('verify: say how its webhooks are verified, or write verify = "none"')
        case "none":
            return (Unverified(),)
        case str() if verify in presets:
            others = {name: preset for name, preset in presets.items() if name != verify}
            return read_schemes(presets[verify].get("verify"), others)
        case str():
            raise SourceError(f"verify: there is no preset {verify!r}{suggest(verify, presets)}")
        case list():
            schemes = tuple(scheme for one in verify for scheme in read_schemes(one, presets))
            if len(schemes) > 1 and Unverified() in schemes:
                raise SourceError('verify: "none" lets everybody in: write it alone or not at all')
            return schemes
        case _:
            return (_read_scheme(verify),)


def read_secrets(
    references: Sequence[str], schemes: Sequence[Scheme], read_secret: ReadSecret
) -> tuple[str, ...]:
    """Resolve ``env:X`` and ``file:/y`` by ``read_secret``; anything else is the secret itself."""
    if not references and Unverified() not in schemes:
        raise SourceError('secrets: there are none; add one, such as "env:WEBHOOK_SECRET"')
    secrets = tuple(_read_secret(reference, read_secret) for reference in references)
    for place, secret in enumerate(secrets):
        if not all(is_usable(scheme, secret) for scheme in schemes):
            raise SourceError(f"secrets[{place}]: it is empty; set it, or take it out")
    return secrets


def _read_scheme(table: Table) -> Scheme:
    match sorted(table.keys() & {"hmac", "token", "query"}):
        case ["hmac"]:
            return _read_hmac(table)
        case ["token"]:
            refuse_unknown(table, ("token", "scheme"), key="verify")
            return convert_table(_named(table, "token"), Token, key="verify")
        case ["query"]:
            refuse_unknown(table, ("query",), key="verify")
            return convert_table(table, Token, key="verify")
        case _:
            raise SourceError("verify: say hmac = <header>, or token = <header>, or query = <name>")


def _read_hmac(table: Table) -> Hmac:
    known = ("hmac", *(field for field in Hmac.__struct_fields__ if field != "header"))
    refuse_unknown(table, known, key="verify")
    scheme = convert_table(_named(table, "hmac"), Hmac, key="verify")
    if "{body}" not in scheme.signed:
        raise SourceError("verify.signed: what is signed must include {body}")
    return scheme


def _named(table: Table, kind: str) -> Table:
    """Give the table with the key that names the kind of scheme read as what it holds."""
    return {("header" if key == kind else key): value for key, value in table.items()}


def _read_secret(reference: str, read_secret: ReadSecret) -> str:
    if not reference.startswith(("env:", "file:")):
        return reference
    try:
        # Files and many secret stores end a secret with a line break that nobody meant.
        return read_secret(reference).rstrip("\r\n")
    except (LookupError, OSError, ValueError):
        raise SourceError(f"secrets: {reference} cannot be read; set it, or take it out") from None
