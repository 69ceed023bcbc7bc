"""Sample webhooks of each preset, written by us, with the event that each must be mapped to."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from service.accept.mapping import Batch, DeploymentEvent, Event, Ignored, Unmappable
from service.accept.payload import InvalidPayload
from service.accept.sources import Source, load_sources

FOLDER = Path(__file__).parents[1] / "samples" / "webhooks"
SECRET = "secret"
PRESETS = sorted(folder.name for folder in FOLDER.iterdir())

# Fields that a source of these presets must set, because their senders do not send them.
REQUIRED_FIELDS = {
    "bitbucket": "environment = \"'production'\"",
    "circleci": "environment = \"'production'\"",
    "eventbridge-codedeploy": 'version = "body.detail.deploymentId"',
    "github-workflow-run": "environment = \"'production'\"",
    "heroku": "environment = \"'production'\"",
    "render": 'environment = "\'production\'"\nversion = "body.data.id"',
}

JsonPath = tuple[str | int, ...]


class Sample(Struct, frozen=True):
    """One file of ``tests/samples/webhooks/<preset>``: a request, and the expected event."""

    preset: str
    name: str
    headers: dict[str, str]
    body: Any
    expected: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.preset}/{self.name}"


def read_samples() -> list[Sample]:
    """Return every sample."""
    return [
        Sample(path.parent.name, path.stem, **json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(FOLDER.glob("*/*.json"))
    ]


def make_sources(presets: str, *, verify: str | None = None) -> dict[str, Source]:
    """Return a source of every preset that has samples."""
    text = ""
    for name in PRESETS:
        text += f'[[source]]\nname = "{name}"\npreset = "{name}"\nproject = "default"\n'
        text += f'secrets = ["{SECRET}"]\n{verify or ""}\n'
        text += f"[source.fields]\n{REQUIRED_FIELDS.get(name, '')}\n"
    return load_sources(text, presets=presets, read_secret=str)


def summarize(event: Event | Batch) -> dict[str, Any]:
    """Return an event in the form of ``expected`` in the samples."""
    match event:
        case DeploymentEvent():
            fields = msgspec.structs.asdict(event)
            names = ("outcome", "environment", "application", "version", "event_time", "delivery")
            return {name: fields[name] for name in names}
        case Ignored():
            return {"ignored": True}
        case Unmappable():
            return {"missing": list(event.missing)}
        case InvalidPayload(reason):
            return {"unreadable": reason}
        case Batch(events):
            return {"events": [summarize(batch_event) for batch_event in events]}


def json_paths(value: Any, prefix: JsonPath = ()) -> Iterator[JsonPath]:
    """Yield the path of every value in a body."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in members:
        yield (*prefix, key)
        if isinstance(member, dict | list):
            yield from json_paths(member, (*prefix, key))


def without_path(body: Any, path: JsonPath) -> Any:
    """Return a copy of a body without the value at ``path``."""
    changed = copy.deepcopy(body)
    del _parent_at(changed, path)[path[-1]]
    return changed


def with_value(body: Any, path: JsonPath, value: object) -> Any:
    """Return a copy of a body with another value at ``path``."""
    changed = copy.deepcopy(body)
    _parent_at(changed, path)[path[-1]] = value
    return changed


def _parent_at(body: Any, path: JsonPath) -> Any:
    for key in path[:-1]:
        body = body[key]
    return body
