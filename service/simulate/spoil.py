"""What is left of a good answer when a fault hits it?"""

from http import HTTPStatus
from typing import Any

import msgspec

from service.simulate.answers import Answer, answer_json
from service.simulate.deployment import Json
from service.simulate.faults import Fault

_EVEN = 0.5
_STATUSES = (500, 502, 503, 504)
_HTML = {"Content-Type": "text/html; charset=utf-8"}
_LINKS = frozenset({Fault.FOREIGN_LINK, Fault.SCHEMELESS_LINK, Fault.FILE_LINK, Fault.LOOP_LINK})


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """Around the fault: what was asked, where to lead the caller astray, and a roll (0 to 1)."""

    href: str
    lure: str
    roll: float


def comes_from_gateway(fault: Fault | None) -> bool:
    """Tell whether the answer was made in front of the API, which adds no rate-limit headers."""
    return fault in {Fault.ERROR_HTML, Fault.ERROR_EMPTY}


def spoil(answer: Answer, fault: Fault, scene: Scene) -> Answer:
    """Give the answer as the fault leaves it; faults of the connection leave it as it is."""
    status = _STATUSES[int(scene.roll * len(_STATUSES)) % len(_STATUSES)]
    match fault:
        case Fault.ERROR:
            body = {"code": "internal_service_error", "message": "Something went wrong"}
            return answer_json(body, status=status)
        case Fault.ERROR_HTML:
            return Answer(status=status, body=_write_page(status), headers=_HTML)
        case Fault.ERROR_EMPTY:
            return Answer(status=status, headers={})
        case Fault.REDIRECT:
            return Answer(status=302, headers={"Location": f"{scene.lure}{scene.href}"})
        case Fault.RESET | Fault.DRIP | Fault.OVERSIZED:
            return answer
        case _:
            return _spoil_body(answer, fault, scene)


def _spoil_body(answer: Answer, fault: Fault, scene: Scene) -> Answer:
    if answer.status != HTTPStatus.OK or not answer.body:
        return answer
    match fault:
        case Fault.HTML:
            return Answer(status=200, body=_write_page(200), headers=_HTML)
        case Fault.TRUNCATED:
            half = answer.body[: len(answer.body) // 2]
            return msgspec.structs.replace(answer, body=half)
        case Fault.EMPTY:
            return msgspec.structs.replace(answer, body=b"")
        case Fault.WRONG_TYPES:
            spoiled = _change_types(msgspec.json.decode(answer.body))
        case _:
            spoiled = _spoil_collections(msgspec.json.decode(answer.body), fault, scene)
    return msgspec.structs.replace(answer, body=msgspec.json.encode(spoiled))


def _change_types(value: Any) -> Any:
    """Turn numbers into words, lists into objects and truth into text, at every level."""
    match value:
        case bool():
            return str(value)
        case int():
            return "many"
        case list():
            return {str(place): _change_types(item) for place, item in enumerate(value)}
        case dict():
            return {key: _change_types(item) for key, item in value.items()}
        case _:
            return value


def _spoil_collections(value: Any, fault: Fault, scene: Scene) -> Any:
    match value:
        case {"items": list(), "totalCount": int(), "_links": dict()}:
            return _spoil_collection(value, fault, scene)
        case dict():
            return {key: _spoil_collections(item, fault, scene) for key, item in value.items()}
        case _:
            return value


def _spoil_collection(collection: Json, fault: Fault, scene: Scene) -> Json:
    if fault is Fault.REPEATED_ITEMS:
        repeated = [item for item in collection["items"] for _ in range(2)]
        return {**collection, "items": repeated}
    if fault is Fault.FALSE_TOTAL:
        total = collection["totalCount"]
        return {**collection, "totalCount": total * 3 + 7 if scene.roll < _EVEN else total // 2}
    if fault in _LINKS:
        lured = {**collection["_links"], "next": {"href": _lure(fault, scene)}}
        # One more than is there: a caller that stops at the total would not be tempted.
        return {**collection, "totalCount": collection["totalCount"] + 1, "_links": lured}
    return collection


def _lure(fault: Fault, scene: Scene) -> str:
    match fault:
        case Fault.FOREIGN_LINK:
            return f"{scene.lure}{scene.href}"
        case Fault.SCHEMELESS_LINK:
            return f"//{scene.lure.partition('://')[2]}{scene.href}"
        case Fault.FILE_LINK:
            return "file:///etc/passwd"
        case _:
            return scene.href


def _write_page(status: int) -> bytes:
    title = f"{status} from the gateway"
    return f"<!doctype html><title>{title}</title><h1>{title}</h1>\n".encode()
