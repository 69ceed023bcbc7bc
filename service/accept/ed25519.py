"""Did the holder of a private key sign these bytes? Told by cryptography, the extra ``ed25519``."""

from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import product

PREFIX = "whpk_"  # https://www.standardwebhooks.com: of a public key, the base64 follows

_KEY_BYTES = 32
_MOST_CLAIMS = 8  # each takes a tenth of a millisecond, and anybody may send a long header
_PACKAGE = "cryptography"


def can_verify() -> bool:
    """Tell whether the extra is installed."""
    return find_spec(_PACKAGE) is not None


def is_public_key(secret: str) -> bool:
    """Tell whether a secret is none: whoever sends may know it, and it must vouch for nobody."""
    return secret.startswith(PREFIX)


def read_public_key(secret: str) -> bytes | None:
    """Give the bytes of a public key as Standard Webhooks writes it, or None."""
    key = _decode(secret.removeprefix(PREFIX).encode("utf-8", "replace"))
    return key if is_public_key(secret) and len(key) == _KEY_BYTES else None


def is_signed_by_any(secrets: Sequence[str], *, claims: Sequence[bytes], signed: bytes) -> bool:
    """Tell whether a claim, in base64, is the signature by one of some public keys.

    Without the extra nobody's is.
    """
    try:
        ed25519 = import_module(f"{_PACKAGE}.hazmat.primitives.asymmetric.ed25519")
        invalid = import_module(f"{_PACKAGE}.exceptions").InvalidSignature
    except ImportError:
        return False
    keys = [key for key in map(read_public_key, secrets) if key is not None]
    for key, claim in product(keys, claims[:_MOST_CLAIMS]):
        with suppress(invalid, ValueError):
            ed25519.Ed25519PublicKey.from_public_bytes(key).verify(_decode(claim), signed)
            return True
    return False


def _decode(text: bytes) -> bytes:
    try:
        return b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        return b""
