"""What does an answer mean for a deployment? Found, Later or Never: decided here alone."""

from http import HTTPStatus
from typing import Literal

from msgspec import Struct

from service.enrich.backoff import Backoff
from service.enrich.deployment import Deployment, Drift, Garbage
from service.enrich.ratelimit import Hints


class Answer(Struct, frozen=True):
    """What LaunchDarkly said to one call."""

    status: int
    body: bytes
    hints: Hints = Hints()
    oversized: bool = False


class Silence(Struct, frozen=True):
    """Nothing usable came back: refused, cut, too slow."""

    reason: str


class Found(Struct, frozen=True):
    """The deployment, whole as far as it could be had; ``body`` is its JSON, bytes as sent."""

    deployment: Deployment
    body: bytes
    stopped: str | None = None
    calls: int = 1


class Later(Struct, frozen=True):
    """Not now: try again after ``wait_s``. ``counts`` tells whether this was an attempt.

    ``repeatable`` is a call that may simply be made again once the budget lets it.
    """

    reason: str
    wait_s: float = 0.0
    counts: bool = True
    repeatable: bool = False


class Never(Struct, frozen=True):
    """Nothing will come of it: for a person, with the reason and the raw answer."""

    reason: str
    detail: str = ""
    raw: bytes = b""


Verdict = Found | Later | Never
Outcome = Literal["fine", "limited", "failing", "refused"]


class History(Struct, frozen=True):
    """What was tried before: attempts that counted, and the age in seconds since it was queued.

    ``chance`` in [0, 1) is the jitter of the next wait. ``again``: it was published before, and is
    only looked at once more.
    """

    attempts: int
    age_s: float
    chance: float
    again: bool = False


class Patience(Struct, frozen=True):
    """How long we try: seconds for what is not there yet, and for an upstream in trouble."""

    appear_s: float = 900.0
    outage_s: float = 86_400.0
    garbled: int = 8
    backoff: Backoff = Backoff()
    appear: Backoff = Backoff(base_s=2.0, cap_s=60.0)


_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_CLIENT_ERRORS = range(400, 500)
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY}


def classify(answer: Answer | Silence) -> Outcome:
    """Say what an answer means for everybody's budget."""
    if isinstance(answer, Silence) or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "failing"
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        return "limited"
    return "refused" if answer.status in _REFUSED else "fine"


def judge_answer(
    answer: Answer | Silence, history: History, patience: Patience
) -> bytes | Later | Never:
    """Give the body of a good answer, else what becomes of the deployment."""
    match answer:
        case Silence():
            return _wait_out(f"no answer: {answer.reason}", b"", history, patience)
        case Answer(status=HTTPStatus.OK, oversized=True):
            return Never(reason="too_large", detail="the answer is over the byte cap")
        case Answer(status=HTTPStatus.OK):
            return answer.body
        case Answer(status=HTTPStatus.NOT_FOUND):
            return judge_absence(history, patience, raw=answer.body)
        case Answer():
            return _judge_refusal(answer, history, patience)


def _judge_refusal(answer: Answer, history: History, patience: Patience) -> Later | Never:
    """Decide on what is neither there nor absent.

    A rate limit and a bad token are not the ticket's fault and cost no attempt: the budget is
    closed for everyone meanwhile.
    """
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        return Later(reason="rate_limited", counts=False, repeatable=True)
    if answer.status in _REFUSED:
        return Later(reason=f"token_refused_{answer.status}", counts=False)
    if answer.status in _CLIENT_ERRORS and answer.status not in _PASSING:
        return Never(reason="rejected", detail=f"HTTP {answer.status}", raw=answer.body)
    return _wait_out(f"HTTP {answer.status}", answer.body, history, patience)


def judge_page(
    answer: Answer | Silence, history: History, patience: Patience
) -> bytes | Later | Never:
    """Judge a further page as an answer, but one that is not there will not come either."""
    if isinstance(answer, Answer) and answer.status == HTTPStatus.NOT_FOUND:
        return Never(reason="rejected", detail="HTTP 404", raw=answer.body)
    return judge_answer(answer, history, patience)


def judge_absence(history: History, patience: Patience, *, raw: bytes = b"") -> Later | Never:
    """Decide on a deployment that is not there yet."""
    if history.again or history.age_s >= patience.appear_s:
        return Never(reason="not_found", detail=f"not there after {history.age_s:.0f} s", raw=raw)
    wait = patience.appear.wait(history.attempts + 1, history.chance)
    return Later(reason="not_found_yet", wait_s=min(wait, patience.appear_s - history.age_s + 0.01))


def judge_shape(
    problem: Drift | Garbage, raw: bytes, history: History, patience: Patience
) -> Later | Never:
    """Decide on a body that cannot be read: a new shape stays new, a cut one may heal."""
    match problem:
        case Drift():
            return Never(reason="undecodable", detail=problem.reason, raw=raw)
        case Garbage() if history.attempts + 1 >= patience.garbled:
            return Never(reason="undecodable", detail=problem.reason, raw=raw)
        case Garbage():
            wait = patience.backoff.wait(history.attempts + 1, history.chance)
            return Later(reason="garbled", wait_s=wait)


def judge_progress(deployment: Deployment, history: History, patience: Patience) -> Later | None:
    """Wait while LaunchDarkly has not heard that it ended; past the deadline take it as it is.

    So is one that was published before: it is looked at again anyway.
    """
    if not deployment.is_unfinished or history.again or history.age_s >= patience.appear_s:
        return None
    wait = patience.appear.wait(history.attempts + 1, history.chance)
    return Later(
        reason="not_finished_yet", wait_s=min(wait, patience.appear_s - history.age_s + 0.01)
    )


def judge_accident(reason: str, history: History, patience: Patience) -> Later | Never:
    """Decide after a mistake of our own: a few more tries, then a person must see it."""
    if history.attempts + 1 >= patience.garbled:
        return Never(reason="internal_error", detail=reason)
    wait = patience.backoff.wait(history.attempts + 1, history.chance)
    return Later(reason="internal_error", wait_s=wait)


def _wait_out(reason: str, raw: bytes, history: History, patience: Patience) -> Later | Never:
    """Outages are not the ticket's fault: a day passes before it is given up.

    A look was told of long ago, and may be left out: for it, tries count.
    """
    tired = history.attempts + 1 >= patience.garbled
    if tired if history.again else history.age_s >= patience.outage_s:
        return Never(reason="upstream_failing", detail=reason, raw=raw)
    return Later(reason=reason, wait_s=patience.backoff.wait(history.attempts + 1, history.chance))
