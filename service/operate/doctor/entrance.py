"""Can webhooks come in? Judged from the settings, the sources, and who is at the door's address."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, assert_never

from msgspec import Struct

from service.operate.doctor.finding import Finding, fail, ok, warn

_OTHER_ADDRESS_FIX = "choose another by ENRICHER_HOST and ENRICHER_PORT"


class SourceFacts(Struct, frozen=True):
    """One source: what is wrong with its secrets, by their place, and whether it asks for any."""

    name: str
    secret_errors: Mapping[str, str]
    is_verified: bool


class ReceiverFacts(Struct, frozen=True):
    """Who is at the address: we, somebody else, nobody, or nobody could be (and why)."""

    address: str
    state: Literal["ours", "stranger", "free", "unusable", "any"]
    detail: str = ""


def check_settings(names: Sequence[str]) -> Finding:
    """Say which variables are set; what is wrong with one is an error before anything else."""
    return ok("settings", f"set: {', '.join(names)}" if names else "all are the defaults")


def check_sources(
    sources: Sequence[SourceFacts], *, error: str, is_needed: bool
) -> Iterator[Finding]:
    """Judge whether each source can be served; ``error``: they could not be read."""
    if error:
        build_finding = fail if is_needed else warn
        yield build_finding(
            "sources", error, "mend it, then `sources list`; only `work` needs none"
        )
    for source in sources:
        check_name = f"source {source.name}"
        for location, secret_error in source.secret_errors.items():
            yield fail(
                check_name, f"{location} {secret_error}", "set it: this source cannot be served"
            )
        if not source.is_verified:
            fix = "give it `verify` and `secrets`, unless nobody else can reach the door"
            yield warn(check_name, "whoever reaches the door is believed", fix)
        elif not source.secret_errors:
            yield ok(check_name, "loads, its secrets are set")


def check_receiver(facts: ReceiverFacts) -> Finding:
    """Judge the address that the door listens on, or would."""
    match facts.state:
        case "ours":
            return ok("door", f"answers at {facts.address}")
        case "free":
            return ok("door", f"{facts.address} is free: `run` or `serve` can listen there")
        case "any":
            return ok("door", f"{facts.address}: any free port will do")
        case "stranger":
            return fail("door", f"somebody else answers at {facts.address}", _OTHER_ADDRESS_FIX)
        case "unusable":
            found = f"{facts.address} cannot be listened on: {facts.detail}"
            return fail("door", found, _OTHER_ADDRESS_FIX)
        case never:
            assert_never(never)
