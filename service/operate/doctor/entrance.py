"""Can webhooks come in? Judged from the settings, the sources, and who is at the door's address."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, assert_never

from msgspec import Struct

from service.operate.doctor.finding import Finding, find_odd, find_well, find_wrong

_ELSEWHERE = "choose another by ENRICHER_HOST and ENRICHER_PORT"


class SourceFacts(Struct, frozen=True):
    """One source: what is wrong with its secrets, by their place, and whether it asks for any."""

    name: str
    troubles: Mapping[str, str]
    verified: bool


class DoorFacts(Struct, frozen=True):
    """Who is at the address: we, somebody else, nobody, or nobody could be (and why)."""

    address: str
    answer: Literal["ours", "stranger", "free", "unusable", "any"]
    detail: str = ""


def judge_settings(names: Sequence[str]) -> Finding:
    """Say which variables are set; what is wrong with one is an error before anything else."""
    return find_well("settings", f"set: {', '.join(names)}" if names else "all are the defaults")


def judge_sources(
    sources: Sequence[SourceFacts], *, error: str, is_needed: bool
) -> Iterator[Finding]:
    """Judge whether each source can be served; ``error``: they could not be read."""
    if error:
        judge = find_wrong if is_needed else find_odd
        yield judge("sources", error, "mend it, then `sources list`; only `work` needs none")
    for source in sources:
        check = f"source {source.name}"
        for place, trouble in source.troubles.items():
            yield find_wrong(check, f"{place} {trouble}", "set it: this source cannot be served")
        if not source.verified:
            fix = "give it `verify` and `secrets`, unless nobody else can reach the door"
            yield find_odd(check, "whoever reaches the door is believed", fix)
        elif not source.troubles:
            yield find_well(check, "loads, its secrets are set")


def judge_door(facts: DoorFacts) -> Finding:
    """Judge the address that the door listens on, or would."""
    match facts.answer:
        case "ours":
            return find_well("door", f"answers at {facts.address}")
        case "free":
            return find_well("door", f"{facts.address} is free: `run` or `serve` can listen there")
        case "any":
            return find_well("door", f"{facts.address}: any free port will do")
        case "stranger":
            return find_wrong("door", f"somebody else answers at {facts.address}", _ELSEWHERE)
        case "unusable":
            told = f"{facts.address} cannot be listened on: {facts.detail}"
            return find_wrong("door", told, _ELSEWHERE)
        case never:
            assert_never(never)
