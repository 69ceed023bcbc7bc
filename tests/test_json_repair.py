"""Repair of JSON that strict decoders refuse."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.json_repair import repair_json


@pytest.mark.parametrize(
    ("body", "repaired"),
    [
        (rb'{"a": "\ud83d"}', rb'{"a": "\ufffd"}'),
        (rb'{"a": "\uDE00x\uD83D"}', rb'{"a": "\ufffdx\ufffd"}'),
        (rb'{"a": "\ud83d\ud83d\ude00"}', rb'{"a": "\ufffd\ud83d\ude00"}'),
        (b'\xef\xbb\xbf{"a": 1}', b'{"a": 1}'),
        (rb'{"a": "\ud83d\ude00"}', None),
        (rb'{"a": "\\ud83d"}', None),
        (rb'{"a": "\\\ud83d"}', rb'{"a": "\\\ufffd"}'),
        (b'{"a": 1e999, "b": -1E+0999}', b'{"a": "1e999", "b": "-1E+0999"}'),
        (b'{"a": "1e999 \\" 1e999"}', None),
        (b"[%b, 1e308]" % (b"9" * 400), b'["%b", 1e308]' % (b"9" * 400)),
        (b"[1e9991e999, -]", None),
        ('{"a": 1}'.encode("utf-16"), b'{"a": 1}'),
        ('{"a": 1}'.encode("utf-32-be"), b'{"a": 1}'),
        (b'"\xed\xa0\xbd"', '"\ufffd"'.encode()),
        (b"\xff\xfe{", None),
        (b"", None),
        (b'{"totalCount": 4, "items": [{"id": "', None),
        (b"<html>", None),
    ],
)
def test_json_is_repaired(body: bytes, repaired: bytes | None) -> None:
    """Whole pairs, escaped backslashes and bodies of another kind stay as they are."""
    assert repair_json(body) == repaired


@given(st.text(st.characters(codec=None) | st.sampled_from("\\u\"'dD8cC\ud83d\ude00")))
def test_repaired_json_can_be_decoded(text: str) -> None:
    """Whatever a text holds, msgspec reads it afterwards, and only halves have changed."""
    body = json.dumps({"a": text}).encode()
    value = msgspec.json.decode(repair_json(body) or body)["a"]
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert value == whole or "\ufffd" in value
