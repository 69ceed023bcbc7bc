"""The receiver accepts what the libraries of Standard Webhooks and Svix sign, through nginx too."""

import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.accept.signatures import sign_standard_webhook
from tests.end_to_end.harness import SECRET, ServiceHarness
from tests.interop.conftest import RunProgram, fail_or_skip
from tests.interop.proxies import find_nginx, serve_nginx

EVENT = {
    "projectKey": "default",
    "environmentKey": "production",
    "applicationKey": "web",
    "version": "1.4.0",
    "eventType": "finished",
    "eventMetadata": {"title": "Grüße, 世界"},
}
BODY = json.dumps(EVENT, ensure_ascii=False)


def read_results(printed: str) -> list[tuple[int, str, str]]:
    """Return status, result and delivery of each printed response."""
    responses: list[dict[str, Any]] = [json.loads(line) for line in printed.splitlines()]
    return [
        (response["status"], response["body"]["status"], response["body"]["delivery"])
        for response in responses
    ]


async def test_receiver_accepts_what_the_javascript_libraries_sign(
    service: ServiceHarness, run_node: RunProgram
) -> None:
    """The libraries of Standard Webhooks and of Svix, each with its own header names."""
    await service.open(workers=0)
    url = f"{service.receiver_url}/webhooks/native"
    assert read_results(await run_node("sign.js", url, SECRET, text=BODY)) == [
        (202, "queued", "js-webhook"),
        (202, "queued", "js-svix"),
    ]


async def test_receiver_accepts_what_the_python_library_of_svix_signs(
    service: ServiceHarness, run_python: RunProgram
) -> None:
    """Under both sets of header names."""
    await service.open(workers=0)
    url = f"{service.receiver_url}/webhooks/native"
    assert read_results(await run_python("sign_with_svix.py", url, SECRET, text=BODY)) == [
        (202, "queued", "py-svix"),
        (202, "queued", "py-webhook"),
    ]


@pytest.fixture
async def proxied_service(service: ServiceHarness, tmp_path: Path) -> AsyncIterator[ServiceHarness]:
    """Open a receiver behind nginx; its URL is that of nginx."""
    nginx = find_nginx()
    if nginx is None:
        fail_or_skip("needs nginx")
    await service.open(workers=0)
    with serve_nginx(str(nginx), tmp_path, service.receiver_url) as url:
        service.receiver_url = url
        yield service


async def test_nginx_passes_every_byte_of_a_webhook_on(proxied_service: ServiceHarness) -> None:
    """Plain, compressed, and as large as the receiver allows: each signature still holds."""
    limit = proxied_service.settings.max_body_bytes
    largest = json.dumps({**EVENT, "deploymentMetadata": ""}).encode()
    padding = "x" * (limit - len(largest))
    large = json.dumps({**EVENT, "deploymentMetadata": padding}).encode()
    assert len(large) == limit
    for name, body in (("plain", BODY.encode()), ("large", large)):
        assert await proxied_service.post(body, delivery=name) == (
            202,
            {"status": "queued", "job": "find:default/production/web/1.4.0", "delivery": name},
        )
    headers = sign_standard_webhook(
        SECRET, delivery="packed", timestamp_s=int(time.time()), body=BODY.encode()
    )
    async with proxied_service.session.post(
        f"{proxied_service.receiver_url}/webhooks/native",
        data=gzip.compress(BODY.encode()),
        headers={**headers, "Content-Encoding": "gzip"},
    ) as response:
        assert (response.status, (await response.json())["delivery"]) == (202, "packed")


async def test_nginx_passes_the_answers_of_the_receiver_on(
    proxied_service: ServiceHarness,
) -> None:
    """A repetition is a duplicate, and an unsigned webhook is refused by the receiver."""
    assert (await proxied_service.post(EVENT, delivery="same"))[0] == 202
    assert (await proxied_service.post(EVENT, delivery="same"))[1]["status"] == "duplicate"
    url = f"{proxied_service.receiver_url}/webhooks/native"
    async with proxied_service.session.post(url, data=b"{}") as response:
        assert (response.status, response.content_type) == (401, "application/problem+json")
