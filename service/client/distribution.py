"""Read the enriched deployments of a Redis stream, typed: the client of deployment-enricher.

The wheel of ``deployment-enricher-client`` holds this file as ``deployment_enricher_client``
itself, above the packages ``client``, ``publish``, ``enrich`` and ``store``. The imports are
relative to that place.
"""

from .client.blocking import read_blocking
from .client.entry import InvalidEntry, Record, StreamEntry
from .client.group import ReaderOptions
from .client.stream import EnrichedStream, InvalidEntryError
from .enrich.models import Deployment, PullRequest
from .publish.record import (
    Change,
    Completeness,
    EnrichedDeployment,
    FlagEvent,
    FlagEventsCompleteness,
    FlagLink,
    Links,
    PreviousDeployment,
    PullRequestLink,
    PullRequestSummary,
    Recovery,
    SourceEvent,
    Summary,
    TouchedFlag,
)

__all__ = [
    "Change",
    "Completeness",
    "Deployment",
    "EnrichedDeployment",
    "EnrichedStream",
    "FlagEvent",
    "FlagEventsCompleteness",
    "FlagLink",
    "InvalidEntry",
    "InvalidEntryError",
    "Links",
    "PreviousDeployment",
    "PullRequest",
    "PullRequestLink",
    "PullRequestSummary",
    "ReaderOptions",
    "Record",
    "Recovery",
    "SourceEvent",
    "StreamEntry",
    "Summary",
    "TouchedFlag",
    "read_blocking",
]
