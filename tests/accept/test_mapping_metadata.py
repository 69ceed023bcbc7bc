"""What may be metadata? A part of what came, and never all headers or the whole query."""

import json

import pytest
from multidict import MultiDict

from service.accept.mapping import DeploymentCompleted, parse_webhook
from service.accept.signatures import SignedRequest
from service.accept.sources import Source, load_sources
from tests.accept.receiver_harness import FINISHED


def source_with_metadata(presets: str, path: str) -> Source:
    """Make a source whose metadata is where a person says."""
    text = '[[source]]\nname = "s"\npreset = "native"\nsecrets = ["x"]\n'
    text += f'fields.metadata = "{path}"\n'
    return load_sources(text, presets=presets, read_secret=str)["s"]


@pytest.mark.parametrize("path", ["headers", "query", "@", "&body", "{all: headers, x: body}"])
def test_metadata_that_is_no_json_is_dropped_and_said_to_be(presets: str, path: str) -> None:
    """All headers would be a mistake of the source, and a leak; the event is kept all the same."""
    text = (
        f'[[source]]\nname = "s"\npreset = "native"\nsecrets = ["x"]\nfields.metadata = "{path}"\n'
    )
    source = load_sources(text, presets=presets, read_secret=str)["s"]
    headers = {"authorization": "Bearer private"}
    for query in ({"token": "private"}, MultiDict({"token": "private"})):
        raw = json.dumps(FINISHED).encode()
        event = parse_webhook(source, SignedRequest(headers, query, raw))
        assert isinstance(event, DeploymentCompleted)
        assert (event.metadata, event.metadata_dropped) == (None, True)


def test_one_parameter_of_the_url_may_be_metadata(presets: str) -> None:
    """By its name, as a header may."""
    source = source_with_metadata(presets, "query.run")
    raw = json.dumps(FINISHED).encode()
    event = parse_webhook(source, SignedRequest({}, MultiDict({"run": "7"}), raw))
    assert isinstance(event, DeploymentCompleted)
    assert event.metadata is not None
    assert bytes(event.metadata) == b'"7"'
