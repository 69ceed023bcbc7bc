"""The check whether the token may report deployments, as ``report = true`` needs."""

from collections.abc import Sequence

from msgspec import Struct

from service.doctor.checks import Finding, fail, ok, warn

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _TOO_MANY_REQUESTS = 400, 401, 403, 429
_CHECK = "report"


class WriteFacts(Struct, frozen=True):
    """The sources with ``report = true``, and the status of the answer to an empty event.

    ``status`` is 0 if there was no answer. LaunchDarkly refuses an empty event, so it creates
    nothing.
    """

    sources: Sequence[str]
    status: int


def check_write(facts: WriteFacts) -> Finding:
    """Check whether the token may write: an empty event is then invalid, and not forbidden.

    LaunchDarkly documents neither the role nor whether it checks the role before the event. A
    custom role may be limited to some projects, which an empty event does not name.
    """
    match facts.status:
        case code if code == _BAD_REQUEST:
            found = "the token may post events; whether of every project, only an event shows"
            return ok(_CHECK, found)
        case code if code == _FORBIDDEN:
            names = ", ".join(facts.sources)
            fix = f"give it the role Writer, or remove report = true from the source {names}"
            return fail(_CHECK, "the token may not report deployments to LaunchDarkly (403)", fix)
        case code if code in {_UNAUTHORIZED, _TOO_MANY_REQUESTS}:
            return ok(_CHECK, f"not checked: LaunchDarkly answers {code}")
        case code:
            found = f"LaunchDarkly answers {code}" if code else "LaunchDarkly does not answer"
            return warn(_CHECK, f"{found} to an empty event", "run doctor again later")
