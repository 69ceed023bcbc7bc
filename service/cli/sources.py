"""What does `sources` tell? Which there are, what one makes of a webhook, what its sender needs."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import assert_never

from msgspec import Struct

from service.accept.expressions import Expression
from service.accept.filters import DeploymentFilter
from service.accept.mapping import (
    Batch,
    DeploymentCompleted,
    Event,
    Ignored,
    Unmappable,
    expression_input,
    parse_time,
    parse_webhook,
    resolve_keys,
)
from service.accept.payload import InvalidPayload, Payload, decode_request
from service.accept.signatures import (
    AuthScheme,
    Ed25519,
    Hmac,
    SignatureScheme,
    SignedRequest,
    Token,
    Unverified,
    is_genuine,
)
from service.accept.source_files import read_presets, read_setup_page
from service.accept.sources import Condition, Fields, Source, SourceError, load_sources
from service.accept.toml_tables import format_suggestion, parse_toml
from service.app import build_filter
from service.backlog.ticket import job_key
from service.cli.preconditions import inspect_sources
from service.log import escape_unprintable
from service.settings import Settings, SettingsError


def render_sources(
    sources: Mapping[str, Source], *, base_url: str, secret_problems: Mapping[str, str]
) -> str:
    """Write all sources for a person; ``troubles`` says what is wrong with a secret, by its place.

    No secret is shown, only where it comes from.
    """
    return "\n".join(
        "\n".join(_format_source(source, base_url, secret_problems)) + "\n"
        for source in sources.values()
    )


def webhook_url(source: Source, base_url: str) -> str:
    """Give the URL to paste on the sender's side."""
    url = f"{base_url.rstrip('/')}/webhooks/{source.name}"
    if all(isinstance(scheme, Token) and scheme.query for scheme in source.schemes):
        parameter = next(scheme.query for scheme in source.schemes if isinstance(scheme, Token))
        return f"{url}?{parameter}=THE-SECRET"
    return url


def describe_scheme(scheme: AuthScheme) -> str:
    """Say what a sender has to send to be believed."""
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
            return "nothing: whoever reaches the receiver is believed"
        case never:
            assert_never(never)


def preset_label(source: Source) -> str:
    """Say which preset a source builds on."""
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


_EXAMPLE_BASE_URL = "https://hooks.example.com"

# Where a sender does not tell: a constant, or a header that it can be made to send.
_FALLBACK_EXPRESSIONS = {
    "environment": "'production'",
    "application": "headers.x_application",
    "version": "headers.x_version",
}


def fill_setup_page(page: str, *, preset: str, source_name: str, base_url: str) -> str:
    """Put a source's own address and name in the place of the example's."""
    return (
        page.replace(
            f"{_EXAMPLE_BASE_URL}/webhooks/{preset}", f"{_EXAMPLE_BASE_URL}/webhooks/{source_name}"
        )
        .replace(_EXAMPLE_BASE_URL, base_url.rstrip("/"))
        .replace(f'name = "{preset}"', f'name = "{source_name}"')
    )


def render_setup_page(source: Source, *, is_configured: bool = False) -> str:
    """Return the setup page of a source whose preset has none.

    A source that is configured already needs no lines of TOML.
    """
    schemes_text = " or ".join(describe_scheme(scheme) for scheme in source.schemes)
    page = f"# {source.name}\n\n" + (f"{source.about}\n\n" if source.about else "")
    url = webhook_url(source, _EXAMPLE_BASE_URL)
    page += f"Let it post JSON to {url},\nverified by {schemes_text}.\n"
    if is_configured:
        return page
    missing_fields = [
        field for field in _FALLBACK_EXPRESSIONS if getattr(source.fields, field) is None
    ]
    expressions = ", ".join(
        f'{field} = "{_FALLBACK_EXPRESSIONS[field]}"' for field in missing_fields
    )
    fields_line = (
        f"fields = {{ {expressions} }}  # the sender does not tell\n" if missing_fields else ""
    )
    toml_block = f"```toml\n{_render_source_block(source.name, source.preset)}{fields_line}```\n"
    return f"{page}\nIn the file that ENRICHER_SOURCES names:\n\n{toml_block}"


def build_example_source(preset: str, *, presets: str) -> Source:
    """Make the source that a preset that ships needs at least; raises SourceError."""
    known_presets = parse_toml(presets, origin="presets")["preset"]
    if preset not in known_presets:
        raise SourceError(
            f"there is no source and no preset {preset!r}{format_suggestion(preset, known_presets)}"
        )
    if "outcome" not in known_presets[preset]:
        reason = (
            "tells how a sender is verified, and a source of your own all else: outcome, fields"
        )
        raise SourceError(f"the preset {preset!r} {reason}")
    toml_block = _render_source_block(preset, preset)
    return load_sources(toml_block, presets=presets, read_secret=lambda _: "x")[preset]


def _render_source_block(name: str, preset: str | None) -> str:
    variable = f"{re.sub('[^A-Z0-9]', '_', name.upper())}_WEBHOOK_SECRET"
    return (
        f'[[source]]\nname = "{name}"\n'
        + (f'preset = "{preset}"\n' if preset else "")
        + f'secrets = ["env:{variable}"]\nproject = "default"\n'
    )


_MAX_VALUE_CHARACTERS = 160  # of a value that is shown
_LABEL_WIDTH = 13

ExpressionInput = Mapping[str, object]


class Explanation(Struct, frozen=True):
    """Whether the request was genuine, and what each of its events says."""

    genuine: bool
    events: tuple[Event, ...]
    report: str

    @property
    def accepted(self) -> bool:
        """Tell whether the receiver would answer 2xx, and a person would have nothing to do."""
        accepted_types = (DeploymentCompleted, Ignored)
        return self.genuine and all(isinstance(event, accepted_types) for event in self.events)


def explain_webhook(
    source: Source,
    request: SignedRequest,
    *,
    now_s: float,
    deployment_filter: DeploymentFilter | None = None,
) -> Explanation:
    """Judge a request as the receiver would at ``now_s``, and tell how every value was found.

    ``only`` says what is wanted downstream; None: all of it.
    """
    active_filter = deployment_filter or DeploymentFilter()
    genuine = is_genuine(source.checks, request, now_s=now_s)
    parsed = parse_webhook(source, request)
    events = tuple(
        map(active_filter.apply, parsed.events if isinstance(parsed, Batch) else (parsed,))
    )
    decoded = decode_request(request)
    payloads = decoded if isinstance(decoded, tuple) else (decoded,)
    lines = [_format_labelled_line("source", f"{source.name}, {preset_label(source)}")]
    lines += _format_verification(source, request, genuine=genuine)
    for payload, event in zip(payloads, events, strict=True):
        lines.append("")
        if isinstance(payload, Payload):
            lines += _format_mapping(source, expression_input(request, payload))
        lines.append(
            _format_labelled_line("answer", _format_response(source, event, genuine=genuine))
        )
    return Explanation(genuine, events, "".join(f"{escape_unprintable(line)}\n" for line in lines))


def _format_verification(source: Source, request: SignedRequest, *, genuine: bool) -> Iterator[str]:
    if genuine:
        yield _format_labelled_line("verified", "yes")
        return
    for index, scheme in enumerate(source.schemes):
        expected = describe_scheme(scheme)
        if isinstance(scheme, Token) and scheme.query is not None:
            is_present = scheme.query in request.query
        else:
            is_present = str(getattr(scheme, "header", "")).lower() in request.headers
        reason = (
            "none of the secrets made it, or it is too old" if is_present else "it is not there"
        )
        yield _format_labelled_line(
            "" if index else "verified", f"{'nor' if index else 'no'}: {expected}: {reason}"
        )


def _format_mapping(source: Source, input_data: ExpressionInput) -> Iterator[str]:
    for condition in source.when:
        result = (
            "as wanted"
            if condition.is_met(input_data)
            else f"wanted: {_format_condition(condition)}"
        )
        yield _format_labelled_line(
            "when", f"{_format_evaluation(condition.expression, input_data)}, {result}"
        )
    outcome = source.outcome.decide(source.outcome.expression.evaluate(input_data))
    outcome_text = outcome or "neither succeeded nor failed"
    yield _format_labelled_line(
        "outcome", f"{outcome_text}, as {_format_evaluation(source.outcome.expression, input_data)}"
    )
    keys = resolve_keys(source, input_data)
    for field in Fields.__struct_fields__:
        expression: Expression | None = getattr(source.fields, field)
        if expression is not None or keys.get(field):
            yield _format_labelled_line(field, _format_field(field, expression, keys, input_data))


def _format_field(
    field: str,
    expression: Expression | None,
    keys: Mapping[str, str | None],
    input_data: ExpressionInput,
) -> str:
    """Say what a field comes to, and how."""
    key = keys.get(field)
    value = None if expression is None else expression.evaluate(input_data)
    if expression is None or (value is None and key):
        return f"{_format_value(key)}, as the source says"
    text = _format_evaluation(expression, input_data)
    if isinstance(value, str) and key and key != value:
        return f"{_format_value(key)}, for {text}"
    if field == "finished_at" and value is not None and parse_time(value) is None:
        return f"{text}, which is no time: that of its arrival will do"
    return text


def _format_response(source: Source, event: Event, *, genuine: bool) -> str:
    """Say what the receiver would answer; of what is not genuine, what it would be if it were."""
    match event:
        case DeploymentCompleted():
            response = f"queued as {job_key(event)} (202), delivery {event.delivery}"
        case Ignored(reason):
            response = f"ignored (200): {reason}"
        case Unmappable(reason) if source.strict:
            response = f"rejected (422): {reason}"
        case Unmappable(reason):
            response = f"set aside for a person (202): {reason}"
        case InvalidPayload(reason):
            response = f"rejected (400): {reason}"
        case never:
            assert_never(never)
    return response if genuine else f"rejected (401); were it genuine: {response}"


def _format_condition(condition: Condition) -> str:
    patterns = [f"/{pattern.pattern}/" for pattern in condition.patterns]
    return " or ".join([*map(_format_value, condition.values), *patterns])


def _format_evaluation(expression: Expression, input_data: ExpressionInput) -> str:
    return f"{_format_value(expression.evaluate(input_data))} <- {expression.text}"


def _format_value(value: object) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[:_MAX_VALUE_CHARACTERS]}.."


def _format_labelled_line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}}{text}"


_EXIT_FAILURE = 1


async def run_sources(arguments: argparse.Namespace, settings: Settings) -> int:
    """Do what was typed after `sources`; neither Redis nor LaunchDarkly is asked."""
    match arguments.what:
        case "list":
            return _print_sources(settings, arguments.url)
        case "try":
            return _try_webhook(settings, arguments)
        case "recipe":
            return _print_setup(settings, arguments.name, arguments.url)
        case never:
            assert_never(never)


def _print_sources(settings: Settings, url: str | None) -> int:
    sources, secret_problems = inspect_sources(settings, os.environ)
    base_url = url or local_receiver_url(settings)
    sys.stdout.write(render_sources(sources, base_url=base_url, secret_problems=secret_problems))
    if url is None:
        sys.stderr.write(
            f"{base_url} is where the receiver listens; --url says how it is reached\n"
        )
    return _EXIT_FAILURE if secret_problems else 0


def _try_webhook(settings: Settings, arguments: argparse.Namespace) -> int:
    sources, secret_problems = inspect_sources(settings, os.environ)
    source = sources.get(arguments.name)
    if source is None:
        known_names = ", ".join(sources)
        raise SettingsError(f"there is no source {arguments.name!r} (there are: {known_names})")
    request = SignedRequest(
        {name.lower(): value for name, value in arguments.header},
        dict(arguments.query),
        _read_body(arguments.file),
    )
    explanation = explain_webhook(
        source, request, now_s=time.time(), deployment_filter=build_filter(settings)
    )
    sys.stdout.write(explanation.report)
    for location in source.secret_locations:
        if location in secret_problems:
            sys.stdout.write(
                f"{location} {secret_problems[location]}: what it signs cannot be verified here\n"
            )
    return 0 if explanation.accepted else _EXIT_FAILURE


def _print_setup(settings: Settings, name: str, url: str | None) -> int:
    sources: dict[str, Source] = {}
    if settings.sources or settings.webhook_secret:
        sources, _ = inspect_sources(settings, os.environ)
    presets = read_presets()
    source = sources.get(name) or build_example_source(name, presets=presets)
    preset = source.preset or ""
    page = None if source.has_own_verify else read_setup_page(preset)
    if page is None:
        page = render_setup_page(source, is_configured=name in sources)
    base_url = url or local_receiver_url(settings)
    example_name = preset or source.name
    sys.stdout.write(
        fill_setup_page(page, preset=example_name, source_name=source.name, base_url=base_url)
    )
    return 0


def local_receiver_url(settings: Settings) -> str:
    """Give the address on which the receiver listens, or would."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _read_body(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
