"""Repair of JSON that senders and LaunchDarkly really write although strict decoders refuse it."""

import json
import re
from math import isinf

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # RFC 8259, 8.1: a parser may ignore it
_REPLACEMENT = "\ufffd"
_HIGH_HALF, _LOW_HALF = rb"u[dD][89abAB][0-9a-fA-F]{2}", rb"u[dD][c-fC-F][0-9a-fA-F]{2}"
# Every escape is matched, so that the text \\ud83d, a backslash and letters, is not taken for one.
_ESCAPE = re.compile(
    rb"\\(?:%b\\%b|(?P<half>%b|%b)|.)" % (_HIGH_HALF, _LOW_HALF, _HIGH_HALF, _LOW_HALF), re.DOTALL
)
_ENCODED_HALF = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")  # what UTF-8 forbids, and some write
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# The largest float has 309 digits. What may be larger has an exponent or a lot of digits.
_MAYBE_TOO_LARGE = re.compile(rb"[0-9][eE]\+?0*[0-9]{3}|[0-9]{300}")
_PIECE_BYTES, _MAX_MATCH_BYTES = 1 << 18, 400  # zeros may precede an exponent, but not so many
_STRING_OR_NUMBER = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?P<number>-?[0-9][0-9.eE+-]*)', re.DOTALL
)


def repair_json(body: bytes) -> bytes | None:
    """Return JSON without what strict decoders refuse; None if it has nothing that is repaired.

    A byte order mark is left out, and UTF-16 and UTF-32 become UTF-8: PowerShell writes all of
    them. Half a surrogate pair, which a truncated emoji leaves, becomes U+FFFD. A number that is
    too large for a float becomes a text with its digits.
    """
    encoding = json.detect_encoding(body)
    repaired = body.removeprefix(_BYTE_ORDER_MARK)
    if not encoding.startswith("utf-8"):
        try:
            text = body.decode(encoding, "surrogatepass")
        except UnicodeDecodeError:
            return None
        repaired = _LONE_SURROGATE.sub(_REPLACEMENT, text).encode()
    repaired = _ENCODED_HALF.sub(_REPLACEMENT.encode(), repaired)
    repaired = _ESCAPE.sub(_replace_half, repaired)
    if _has_large_number(repaired):
        repaired = _STRING_OR_NUMBER.sub(_quote_too_large, repaired)
    return None if repaired == body else repaired


def _replace_half(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape["half"] else escape[0]


def _has_large_number(text: bytes) -> bool:
    """Return whether a number may be too large; other threads run between two pieces of text."""
    return any(
        _MAYBE_TOO_LARGE.search(text, start, start + _PIECE_BYTES + _MAX_MATCH_BYTES)
        for start in range(0, len(text), _PIECE_BYTES)
    )


def _quote_too_large(token: re.Match[bytes]) -> bytes:
    """Return a number that no float can hold as a string; any other token unchanged."""
    number = token["number"]
    try:
        is_too_large = number is not None and isinf(float(number))
    except ValueError:
        return token[0]
    return b'"%b"' % number if is_too_large else token[0]
