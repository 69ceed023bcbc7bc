"""Sources as text for the person who sets up their senders."""

from collections.abc import Iterator, Mapping
from typing import assert_never

from service.accept.signatures import (
    AuthScheme,
    Ed25519,
    Hmac,
    SignatureScheme,
    Token,
    Unverified,
)
from service.accept.sources import Source


def render_sources(
    sources: Mapping[str, Source], *, base_url: str, secret_problems: Mapping[str, str]
) -> str:
    """Return all sources as text; ``secret_problems`` names what is wrong, by a secret's location.

    The text shows where a secret comes from, never the secret.
    """
    return "\n".join(
        "\n".join(_format_source(source, base_url, secret_problems)) + "\n"
        for source in sources.values()
    )


def webhook_url(source: Source, base_url: str) -> str:
    """Return the URL to paste on the sender's side."""
    url = f"{base_url.rstrip('/')}/webhooks/{source.name}"
    if all(isinstance(scheme, Token) and scheme.query for scheme in source.schemes):
        parameter = next(scheme.query for scheme in source.schemes if isinstance(scheme, Token))
        return f"{url}?{parameter}=THE-SECRET"
    return url


def describe_scheme(scheme: AuthScheme) -> str:
    """Return what a sender must send to be accepted as genuine."""
    match scheme:
        case Hmac(header=header, algorithm=algorithm):
            return f"HMAC-{algorithm.upper()} in {header}{_format_age_limit(scheme)}"
        case Ed25519(header=header):
            return f"Ed25519 in {header}{_format_age_limit(scheme)}, by a key whpk_..."
        case Token(query=str() as parameter):
            return f"the secret in the URL, as ?{parameter}="
        case Token(header=header, scheme=prefix):
            return f"the secret in {header}{f', after {prefix}' if prefix else ''}"
        case Unverified():
            return "nothing: anyone who reaches the receiver is accepted"
        case never:
            assert_never(never)


def preset_label(source: Source) -> str:
    """Return which preset a source builds on."""
    return f"preset {source.preset}" if source.preset else "no preset"


def _format_age_limit(scheme: SignatureScheme) -> str:
    return f", at most {scheme.past_s} s old" if scheme.timestamp else ""


def _format_source(
    source: Source, base_url: str, secret_problems: Mapping[str, str]
) -> Iterator[str]:
    yield f"{source.name}  ({preset_label(source)})"
    yield f"  POST         {webhook_url(source, base_url)}"
    for index, scheme in enumerate(source.schemes):
        yield f"  {'or' if index else 'verified by':<13}{describe_scheme(scheme)}"
    for index, location in enumerate(source.secret_locations):
        status = secret_problems.get(location, "is set")
        yield f"  {'' if index else 'secrets':<13}{location} {status}"
    if source.report:
        yield f"  {'report':<13}each deployment that LaunchDarkly does not list is reported to it"
