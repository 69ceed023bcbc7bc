"""Read entries of the stream as CloudEvents, with the Python SDK; print the id of each.

Standard input: a JSON list of the fields of each entry. Each event is also encoded and read again.
"""

import datetime as dt
import json
import sys

from cloudevents.core.bindings.http import from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

for entry in json.load(sys.stdin):
    data = json.loads(entry.pop("data"))
    time = dt.datetime.fromisoformat(entry.pop("time"))
    event = CloudEvent({**entry, "time": time}, data)
    for message in (to_structured_event(event), to_binary_event(event)):
        assert from_http_event(message).get_data() == data
    print(event.get_id())
