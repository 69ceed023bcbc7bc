"""The history of an application in an environment: the deployments that ended there last.

The script that appends a record keeps it in Redis and computes ``change`` from it, see
``lua/lib_history.lua``. ``docs/consumers.md`` defines what ``change`` means.
"""

from hashlib import sha256
from typing import Literal

import msgspec
from msgspec import Struct

from service.backlog.ticket import Ticket
from service.enrich.models import Deployment
from service.publish.record import PreviousDeployment

_VALID_TIMES_MS = range(1, 253_402_300_800_000)  # from 1970 to the end of the year 9999
_MAX_TEXT_BYTES = 256
_DIGEST_LENGTH = 10  # hex digits


class HistoryLine(Struct, frozen=True):
    """One deployment in the history of its scope: project, environment and application.

    An unknown part of the scope is empty. ``text`` is what Redis keeps, empty if the deployment
    takes no part: when it ended (epoch ms, 15 digits), the digests of its version and of the line
    (10 hex digits each), ``+`` if it succeeded or ``-`` if not, and the JSON with which the next
    record describes it.
    """

    scope: tuple[str, str, str] = ("", "", "")
    text: bytes = b""


def build_history_line(deployment: Deployment, ticket: Ticket) -> HistoryLine:
    """Return the line of a deployment.

    A deployment takes no part if nobody knows when it ended, or if its id or version is longer
    than 256 bytes. The webhook says whether it succeeded, and when it ended if LaunchDarkly does
    not. An unknown version has a digest of its own: it equals no other.
    """
    ended_at = deployment.ended_at or ticket.event_time
    if deployment.is_unfinished or ended_at is None or ended_at not in _VALID_TIMES_MS:
        return HistoryLine()
    version = deployment.application_version or ticket.version or None
    if max(len(deployment.id.encode()), len((version or "").encode())) > _MAX_TEXT_BYTES:
        return HistoryLine()
    scope = (
        ticket.project or "",
        deployment.environment_key or ticket.environment or "",
        deployment.application_key or ticket.application or "",
    )
    outcome: Literal["succeeded", "failed"] = (
        "failed" if ticket.outcome == "failed" else "succeeded"
    )
    described = msgspec.json.encode(
        PreviousDeployment(deployment.id, version, ended_at, outcome)
    ).decode()
    version_digest = _digest("version", version) if version else _digest("id", deployment.id)
    sign = "+" if outcome == "succeeded" else "-"
    line = f"{ended_at:015}{version_digest}{_digest(*scope, described)}{sign}{described}"
    return HistoryLine(scope, line.encode())


def _digest(*texts: str) -> str:
    return sha256(msgspec.json.encode(texts)).hexdigest()[:_DIGEST_LENGTH]
