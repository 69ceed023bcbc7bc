"""The history of an application in an environment: the deployments that ended there last.

The script that appends a record keeps it in Redis and computes ``change`` from it, see
``lua/lib_history.lua``. ``docs/consumers.md`` defines what ``change`` means.
"""

from typing import Literal
from zlib import crc32

import msgspec
from msgspec import Struct

from service.backlog.ticket import Ticket
from service.enrich.models import Deployment
from service.publish.record import PreviousDeployment

_VALID_TIMES_MS = range(1, 253_402_300_800_000)  # from 1970 to the end of the year 9999
_MAX_TEXT_BYTES = 256


class HistoryLine(Struct, frozen=True):
    """One deployment in the history of its scope: project, environment and application.

    An unknown part of the scope is empty. ``text`` is what Redis keeps, empty if the deployment
    takes no part: when it ended (epoch ms, 15 digits), the checksums of its version and of all of
    it (8 hex digits each), ``+`` if it succeeded or ``-`` if not, and the JSON with which the next
    record describes it.
    """

    scope: tuple[str, str, str] = ("", "", "")
    text: bytes = b""


def build_history_line(deployment: Deployment, ticket: Ticket) -> HistoryLine:
    """Return the line of a deployment.

    A deployment takes no part if nobody knows when it ended, or if its id or version is longer
    than 256 bytes. The webhook says whether it succeeded, and when it ended if LaunchDarkly does
    not.
    """
    ended_at = deployment.ended_at or ticket.event_time
    if deployment.is_unfinished or ended_at is None or ended_at not in _VALID_TIMES_MS:
        return HistoryLine()
    version = deployment.application_version or ticket.version or None
    version_bytes = (version or "").encode()
    if max(len(deployment.id.encode()), len(version_bytes)) > _MAX_TEXT_BYTES:
        return HistoryLine()
    scope = (
        ticket.project or "",
        deployment.environment_key or ticket.environment or "",
        deployment.application_key or ticket.application or "",
    )
    has_failed = ticket.outcome == "failed"
    outcome: Literal["succeeded", "failed"] = "failed" if has_failed else "succeeded"
    described = msgspec.json.encode(PreviousDeployment(deployment.id, version, ended_at, outcome))
    checksums = crc32(version_bytes), crc32(described, crc32("\n".join(scope).encode()))
    sign = b"-" if has_failed else b"+"
    return HistoryLine(scope, b"%015d%08x%08x%b%b" % (ended_at, *checksums, sign, described))
