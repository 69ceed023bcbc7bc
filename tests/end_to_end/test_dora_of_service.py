"""Test of the page of deploy/examples/dora with what the service publishes."""

import re
import time
from typing import Any

from service.cli.dora_page import serve_dora_page
from service.simulate.flag_events import NewFlagEvent
from tests.conftest import Eventually
from tests.end_to_end.harness import ServiceHarness
from tests.factories import deployment_id

MINUTE_MS = 60_000
APPLICATION = (
    "application?project=default&environment=production&application=billing-service&period=15m"
)
# (number, version, status, when it ended in minutes before now)
HISTORY = (
    (1, "1.0.0", "finished", 12),
    (2, "2.0.0", "failed", 10),
    (3, "2.0.0", "finished", 6),
    (4, "3.0.0", "finished", 5),
    (5, "2.0.0", "finished", 3),
)


def make_raw(number: int, version: str, status: str, ended_at: int) -> dict[str, Any]:
    """Return a deployment as LaunchDarkly has it, which touches a flag."""
    reference = {"projectKey": "default", "flagKey": "dark-mode", "referencesAdded": 1}
    return {
        "id": deployment_id(number),
        "applicationKey": "billing-service",
        "applicationVersion": version,
        "environmentKey": "production",
        "startedAt": ended_at - 1000,
        "endedAt": ended_at,
        "status": status,
        "leadTime": number * 60 * MINUTE_MS,
        "pullRequests": {"totalCount": 0, "items": []},
        "flagReferences": {"totalCount": 1, "items": [reference]},
    }


async def test_page_shows_what_the_service_published(
    service: ServiceHarness, event: dict[str, object], eventually: Eventually
) -> None:
    """A failure, a rerun, a rollback and a flag that was turned on; webhooks come in any order."""
    await service.open(refresh_after="0.3 0.8 1.5 3", flag_events="on")
    now_ms = int(time.time() * 1000)
    for number, version, status, minutes in HISTORY:
        raw = make_raw(number, version, status, now_ms - minutes * MINUTE_MS)
        service.simulator.add_raw_deployment(raw)
    service.simulator.add_flag_event(
        NewFlagEvent(flag_key="dark-mode", event_time=now_ms - 2 * MINUTE_MS)
    )
    for number, version, status, _ in (*HISTORY[::2], *HISTORY[1::2]):
        webhook = {"deploymentId": deployment_id(number), "version": version, "eventType": status}
        assert (await service.post(event | webhook))[0] == 202
    page = ""

    async def has(*texts: str) -> bool:
        nonlocal page
        async with service.session.get(f"{url}/{APPLICATION}") as response:
            html = re.sub(r"<title>.*?</title>", "", await response.text())
        page = " ".join(re.sub(r"<[^>]*>", " ", html).split())
        return all(text in page for text in texts)

    async with serve_dora_page(
        service.settings.redis_url.reveal(),
        namespace=service.keys.namespace,
        period="15m",
        log=service.log,
    ) as url:
        await eventually(
            lambda: has(
                "0.3 per minute 4 successful deployments",
                "3.5 h median of 4 deployments",
                "40 % 2 of 5 deployments",
                "3 min median of 2 recoveries",
                "rolled back later",
                "Rolled back 2 min later by 2.0.0",
                "Rolled back from 3.0.0 , which had succeeded 2 min before.",
                "Ended a failure that had lasted 4 min.",
                "turned on 1 min later, at",
            )
        )
    assert page.count("turned on") == 1
