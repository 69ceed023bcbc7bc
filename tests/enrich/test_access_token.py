"""Tests of the access token: each session sends the current one."""

import time

from service.enrich.access_token import AccessToken
from service.enrich.client import LaunchDarkly, open_session
from service.enrich.verdict import ApiResponse
from service.simulate.options import Options
from tests.end_to_end.harness import open_simulator

PATH = "/api/v2/engineering-insights/deployments?projectKey=default&environmentKey=production"


async def test_replaced_token_is_sent_with_the_next_call() -> None:
    """Sessions that are open already send it too."""
    token = AccessToken("api-old")
    async with open_simulator() as (_, url), open_session("unset", max_connections=1) as session:
        token.authorize(session)
        launchdarkly = LaunchDarkly(session, origin=url, max_bytes=1 << 20, clock=time.time)
        statuses = []
        for replacement in ("api-old", Options().token):
            assert token.replace(replacement) == (replacement != "api-old")
            response = await launchdarkly.get(PATH, route="list")
            assert isinstance(response, ApiResponse)
            statuses.append(response.status)
    assert statuses == [401, 200]
