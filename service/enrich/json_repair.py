"""Repair of JSON that is right but for what strict decoders refuse."""

import re

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # RFC 8259, 8.1: a parser may ignore it
_HIGH_HALF, _LOW_HALF = rb"u[dD][89abAB][0-9a-fA-F]{2}", rb"u[dD][c-fC-F][0-9a-fA-F]{2}"
# Every escape is matched, so that the text \\ud83d, a backslash and letters, is not taken for one.
_ESCAPE = re.compile(
    rb"\\(?:%b\\%b|(?P<half>%b|%b)|.)" % (_HIGH_HALF, _LOW_HALF, _HIGH_HALF, _LOW_HALF), re.DOTALL
)


def repair_json(body: bytes) -> bytes | None:
    """Return JSON without a byte order mark and halves of surrogate pairs; None if it has none.

    Half a pair is what a truncated emoji leaves. It becomes U+FFFD, which every reader accepts.
    """
    repaired = _ESCAPE.sub(_replace_half, body.removeprefix(_BYTE_ORDER_MARK))
    return None if repaired == body else repaired


def _replace_half(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape["half"] else escape[0]
