"""Send an event with the Python SDK of CloudEvents, structured and binary; print each response.

Arguments: URL, token. Standard input: the attributes and the data of the event, as JSON.
"""

import copy
import json
import sys
import urllib.request

from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

url, token = sys.argv[1:]
sent = json.load(sys.stdin)


def event_named(name: str) -> CloudEvent:
    """Return the event under another id."""
    attributes = copy.deepcopy(sent)
    data = attributes.pop("data")
    data["context"]["id"] = name
    return CloudEvent({**attributes, "id": name}, data)


def send(message: HTTPMessage) -> None:
    """Post a message and print the response."""
    headers = {**message.headers, "authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, message.body, headers)  # noqa: S310 - a URL of the test
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 - the same URL
        print(json.dumps({"status": response.status, "body": json.load(response)}))


send(to_structured_event(event_named("py-structured")))
send(to_binary_event(event_named("py-binary")))
