"""Did the holder of a private key sign these bytes? Told by cryptography, the extra ``ed25519``."""

from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import product

PUBLIC_KEY_PREFIX = "whpk_"  # https://www.standardwebhooks.com: of a public key, the base64 follows

_PUBLIC_KEY_BYTES = 32
_MAX_ED25519_SIGNATURES = (
    8  # each takes a tenth of a millisecond, and anybody may send a long header
)
_ED25519_PACKAGE = "cryptography"


def is_ed25519_installed() -> bool:
    """Tell whether the extra is installed."""
    return find_spec(_ED25519_PACKAGE) is not None


def is_public_key(secret: str) -> bool:
    """Tell whether a secret is none: whoever sends may know it, and it must vouch for nobody."""
    return secret.startswith(PUBLIC_KEY_PREFIX)


def decode_public_key(secret: str) -> bytes | None:
    """Give the bytes of a public key as Standard Webhooks writes it, or None."""
    key = _decode_base64(secret.removeprefix(PUBLIC_KEY_PREFIX).encode("utf-8", "replace"))
    return key if is_public_key(secret) and len(key) == _PUBLIC_KEY_BYTES else None


def is_ed25519_signed(
    secrets: Sequence[str], *, signatures: Sequence[bytes], signed_bytes: bytes
) -> bool:
    """Tell whether a claim, in base64, is the signature by one of some public keys.

    Without the extra nobody's is.
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
