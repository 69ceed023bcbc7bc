"""Which sources are configured? Where each is served, how it is verified, whose secrets are set."""

from collections.abc import Iterator, Mapping
from typing import assert_never

from service.accept.signature import Ed25519, Hmac, Scheme, Signed, Token, Unverified
from service.accept.sources import Source

_SET = "is set"


def list_sources(
    sources: Mapping[str, Source], *, base_url: str, troubles: Mapping[str, str]
) -> str:
    """Write all sources for a person; ``troubles`` says what is wrong with a secret, by its place.

    No secret is shown, only where it comes from.
    """
    return "\n".join(
        "\n".join(_describe_source(source, base_url, troubles)) + "\n"
        for source in sources.values()
    )


def name_url(source: Source, base_url: str) -> str:
    """Give the URL to paste on the sender's side."""
    url = f"{base_url.rstrip('/')}/webhooks/{source.name}"
    if all(isinstance(scheme, Token) and scheme.query for scheme in source.schemes):
        parameter = next(scheme.query for scheme in source.schemes if isinstance(scheme, Token))
        return f"{url}?{parameter}=THE-SECRET"
    return url


def describe_scheme(scheme: Scheme) -> str:
    """Say what a sender has to send to be believed."""
    match scheme:
        case Hmac(header=header, algorithm=algorithm):
            return f"HMAC-{algorithm.upper()} in {header}{_describe_age(scheme)}"
        case Ed25519(header=header):
            return f"Ed25519 in {header}{_describe_age(scheme)}, by a key whpk_..."
        case Token(query=str() as parameter):
            return f"the secret in the URL, as ?{parameter}="
        case Token(header=header, scheme=word):
            return f"the secret in {header}{f', after {word}' if word else ''}"
        case Unverified():
            return "nothing: whoever reaches the door is believed"
        case never:
            assert_never(never)


def name_preset(source: Source) -> str:
    """Say which preset a source builds on."""
    return f"preset {source.preset}" if source.preset else "no preset"


def _describe_age(scheme: Signed) -> str:
    return f", at most {scheme.past_s} s old" if scheme.timestamp else ""


def _describe_source(source: Source, base_url: str, troubles: Mapping[str, str]) -> Iterator[str]:
    yield f"{source.name}  ({name_preset(source)})"
    yield f"  POST         {name_url(source, base_url)}"
    for nth, scheme in enumerate(source.schemes):
        yield f"  {'or' if nth else 'verified by':<13}{describe_scheme(scheme)}"
    for nth, place in enumerate(source.secret_places):
        yield f"  {'' if nth else 'secrets':<13}{place} {troubles.get(place, _SET)}"
