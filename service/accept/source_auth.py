"""The keys ``verify`` and ``secrets`` of a source, parsed to schemes of signatures.py.

``verify`` is ``{ hmac = "<header>" }`` with any other key of signatures.Hmac, ``{ ed25519 =
"<header>" }`` with any other key of signatures.Ed25519, ``{ token = "<header>" }`` with or without
``scheme``, ``{ query = "<parameter>" }``, the name of a preset, a list of these, or ``"none"``.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from service.accept.signatures import (
    AuthScheme,
    Ed25519,
    Hmac,
    SignatureScheme,
    Token,
    Unverified,
    accepts_secret,
    decode_public_key,
    is_ed25519_installed,
    is_public_key,
    is_usable_secret,
)
from service.accept.toml_tables import (
    KeyPath,
    SourceError,
    TomlTable,
    convert_table,
    format_suggestion,
    refuse_unknown_keys,
)

SchemeT = TypeVar("SchemeT", bound=SignatureScheme)
ReadSecret = Callable[[str], str | None]
"""Returns the secret of a reference; None if it may be missing, because nothing is served."""

_VERIFY_KEY = ("verify",)
_REFERENCE_PREFIXES = ("env:", "file:")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


def parse_schemes(
    verify: Any, presets: TomlTable, *, key: KeyPath = _VERIFY_KEY
) -> tuple[AuthScheme, ...]:
    """Parse ``verify``, the value under ``key``; raises SourceError."""
    match verify:
        case None | "" | [] | ():
            raise SourceError(
                'set how its webhooks are verified, or write verify = "none"', key=key
            )
        case "none":
            return (Unverified(),)
        case str() if verify in presets:
            other_presets = {name: preset for name, preset in presets.items() if name != verify}
            return parse_schemes(presets[verify].get("verify"), other_presets, key=key)
        case str():
            raise SourceError(
                f"there is no preset {verify!r}{format_suggestion(verify, presets)}", key=key
            )
        case list():
            schemes = tuple(
                scheme
                for index, entry in enumerate(verify)
                for scheme in parse_schemes(entry, presets, key=(*key, index))
            )
            if len(schemes) > 1 and Unverified() in schemes:
                raise SourceError(
                    '"none" accepts every request: write it alone or remove it', key=key
                )
            return schemes
        case _:
            return (_parse_scheme(verify, key),)


def resolve_secrets(
    references: Sequence[str], schemes: Sequence[AuthScheme], read_secret: ReadSecret
) -> tuple[str, ...]:
    """Resolve ``env:X`` and ``file:/y`` by ``read_secret``; any other reference is the secret."""
    if not references and Unverified() not in schemes:
        raise SourceError('there are none; add one, such as "env:WEBHOOK_SECRET"', key=("secrets",))
    secrets: list[str] = []
    for index, reference in enumerate(references):
        try:
            secret = resolve_secret(reference, read_secret)
        except LookupError as error:
            raise SourceError(f"{error}; set it, or remove it", key=("secrets", index)) from None
        if secret is None:
            continue
        if secret_location(reference) != reference and reference.lower().startswith(
            _REFERENCE_PREFIXES
        ):
            raise SourceError("write env: and file: in lower case", key=("secrets", index))
        if problem := _check_secret(secret, schemes):
            raise SourceError(f"{secret_location(reference)} {problem}", key=("secrets", index))
        secrets.append(secret)
    return tuple(secrets)


def _check_secret(secret: str, schemes: Sequence[AuthScheme]) -> str | None:
    """Return why a secret cannot verify any request, and the fix; None if it can."""
    accepting_schemes = [scheme for scheme in schemes if accepts_secret(scheme, secret)]
    if is_public_key(secret):
        return _check_public_key(secret, has_scheme=bool(accepting_schemes))
    if not all(is_usable_secret(scheme, secret) for scheme in accepting_schemes):
        return "is empty; set it, or remove it"
    if not accepting_schemes:
        return "is not a public key (whpk_), and verify has only ed25519: remove it"
    return None


def _check_public_key(secret: str, *, has_scheme: bool) -> str | None:
    """Return why a public key cannot verify any request, and the fix; None if it can."""
    if not has_scheme:
        return "is a public key (whpk_), and verify has no ed25519: remove it"
    if not is_ed25519_installed():
        return "is a public key (whpk_): pip install 'deployment-enricher[ed25519]'"
    if decode_public_key(secret) is None:
        return "is not a public key: write whpk_ and the base64 of 32 bytes"
    return None


def resolve_secret(reference: str, read_secret: ReadSecret) -> str | None:
    """Return the secret of a reference; LookupError if it cannot be read, with the reason."""
    if not reference.startswith(_REFERENCE_PREFIXES):
        return reference
    try:
        secret = read_secret(reference)
    except LookupError:
        raise LookupError(f"{reference} is not set") from None
    except UnicodeDecodeError:
        raise LookupError(f"{reference} cannot be read: it is not UTF-8 text") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LookupError(f"{reference} cannot be read: {reason}") from None
    # Files and many secret stores end a secret with a line break that is not part of it.
    return secret and secret.rstrip("\r\n")


def secret_location(reference: str) -> str:
    """Return where a secret comes from, without the secret itself."""
    return reference if reference.startswith(_REFERENCE_PREFIXES) else "written in the file"


def _parse_scheme(table: TomlTable, key: KeyPath) -> AuthScheme:
    match sorted(table.keys() & {"hmac", "ed25519", "token", "query"}):
        case ["hmac"]:
            return _parse_signature_scheme(table, "hmac", Hmac, key)
        case ["ed25519"]:
            return _parse_signature_scheme(table, "ed25519", Ed25519, key)
        case ["token"]:
            refuse_unknown_keys(table, ("token", "scheme"), key=key)
            return convert_table(_rename_kind_to_header(table, "token", key), Token, key=key)
        case ["query"]:
            refuse_unknown_keys(table, ("query",), key=key)
            return convert_table(table, Token, key=key)
        case _:
            problem = "set hmac = <header>, ed25519 = <header>, token = <header> or query = <name>"
            raise SourceError(problem, key=key)


def _parse_signature_scheme(
    table: TomlTable, kind: str, scheme_type: type[SchemeT], key: KeyPath
) -> SchemeT:
    known_keys = (kind, *(field for field in scheme_type.__struct_fields__ if field != "header"))
    refuse_unknown_keys(table, known_keys, key=key)
    scheme = convert_table(_rename_kind_to_header(table, kind, key), scheme_type, key=key)
    timestamp_placeholder = f"{{{scheme.timestamp}}}"
    if "{body}" not in scheme.signed:
        raise SourceError("the signed text must include {body}", key=(*key, "signed"))
    if scheme.timestamp is not None and timestamp_placeholder.lower() not in scheme.signed.lower():
        problem = (
            f"the signed text lacks {timestamp_placeholder}: without it, anyone could send a"
            " webhook again with another time"
        )
        raise SourceError(problem, key=(*key, "timestamp"))
    if scheme.field is None and "{@" in scheme.signed:
        problem = "{@...} is a field of the signature header: set which field is the signature"
        raise SourceError(problem, key=(*key, "signed"))
    return scheme


def _rename_kind_to_header(table: TomlTable, kind: str, key: KeyPath) -> TomlTable:
    """Return the table with its header under the key ``header`` instead of the kind of scheme."""
    if not isinstance(table[kind], str) or not _HEADER_NAME.fullmatch(table[kind]):
        raise SourceError("this is not the name of a header", key=(*key, kind))
    return {("header" if name == kind else name): value for name, value in table.items()}
