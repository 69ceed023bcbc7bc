"""The content floor: the same records and answers as those of the service, in a straight line.

    python -m tests.bench.content_floor worker|receiver

It calls the functions that decide what a record holds and the scripts that lose nothing, one after
the other, and writes the same log lines. So it does what cannot be left out. It leaves out what
the service needs around them: retries, further pages, matching by more than the version, limits of
memory and time, renewal of leases, metrics, refusals, and an end that loses no time.

``worker`` claims tickets, with an id or without one, and publishes them. ``receiver`` verifies,
maps and keeps webhooks.
"""

import asyncio
import os
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import ClientSession, web
from yarl import URL

from service.accept.mapping import DeploymentEvent, Queued, parse_webhook
from service.accept.signatures import SignedRequest, is_genuine
from service.accept.source_files import read_configured_sources
from service.app import Runtime, open_runtime
from service.backlog.ticket import Lease, lease_log_fields
from service.backlog.wakeup import Wakeup
from service.cli.event_loop import new_event_loop
from service.enrich.budget import Budget
from service.enrich.client import open_session
from service.enrich.models import (
    Deployment,
    DeploymentPage,
    parse_deployment_of_id,
    parse_list_item,
    parse_page_in_steps,
)
from service.enrich.pagination import ApiRequest, next_link, resolve_next_link
from service.enrich.rate_limits import RateLimitHeaders, parse_rate_limits
from service.enrich.shared_list import build_list_query, build_list_request
from service.enrich.steps import finish_steps
from service.enrich.verdict import Found
from service.log import build_log
from service.publish.entry import Entry, EntryBuilder
from service.publish.stream import OutputStream, RetentionConfig
from service.settings import Settings, read_settings, to_ms
from tests.bench.baseline import serve_receiver

_DEPLOYMENTS = "/api/v2/engineering-insights/deployments"
_FOLLOWERS = 1000
_MAX_WAIT_S = 4.0


class ContentFloor:
    """A worker without anything around its work."""

    def __init__(self, runtime: Runtime, session: ClientSession, settings: Settings) -> None:
        self._runtime = runtime
        self._session = session
        self._settings = settings
        self._budget = Budget(
            runtime.group_commit, keys=runtime.keys, share=settings.rate_limit_share, rng=lambda: 0
        )
        self._output = OutputStream(
            runtime.group_commit,
            keys=runtime.keys,
            retention=RetentionConfig(
                dedup_ttl_ms=to_ms(settings.published_retention),
                max_age_ms=to_ms(settings.stream_retention),
            ),
        )
        self._builder = EntryBuilder()
        self._tasks: set[asyncio.Task[None]] = set()
        self._task_ended = asyncio.Event()

    async def work(self) -> None:
        """Claim tickets and publish them until the process is killed."""
        backlog, group_commit = self._runtime.backlog, self._runtime.group_commit
        wakeup = Wakeup(
            self._runtime.client, group_commit, keys=self._runtime.keys, token="content-floor"
        )
        while True:
            free = self._settings.concurrency - len(self._tasks)
            if free <= 0:
                self._task_ended.clear()
                await self._task_ended.wait()
                continue
            claimed = await backlog.claim(free, followers=_FOLLOWERS, waits=True)
            leases = [lease for lease in claimed.leases if isinstance(lease, Lease)]
            if not leases and claimed.sleep_s != 0:
                handed_over = await wakeup.wait(claimed.sleep_s or _MAX_WAIT_S)
                leases = [handed_over] if isinstance(handed_over, Lease) else []
            batches: dict[str, list[Lease]] = defaultdict(list)
            for lease in leases:
                has_id = lease.ticket.deployment_id is not None
                batches[lease.job if has_id else lease.leader or lease.job].append(lease)
            for batch in batches.values():
                self._start(batch)

    def _start(self, batch: Sequence[Lease]) -> None:
        task = asyncio.create_task(self._publish_batch(batch))
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        task.result()
        self._task_ended.set()

    async def _publish_batch(self, batch: Sequence[Lease]) -> None:
        deployment_id = batch[0].ticket.deployment_id
        if deployment_id is None:
            await self._publish_listed(batch)
            return
        path = f"{_DEPLOYMENTS}/{deployment_id}?expand=pullRequests,flagReferences"
        body = await self._get(path, call_id=batch[0].job, route="get")
        deployment = finish_steps(parse_deployment_of_id(deployment_id, body))
        assert isinstance(deployment, Deployment)
        await self._publish(batch[0], Found(deployment=deployment, chunks=(body,), calls=1))

    async def _publish_listed(self, batch: Sequence[Lease]) -> None:
        """Read the pages of one list and publish each deployment that it holds."""
        leases = {(lease.ticket.application, lease.ticket.version): lease for lease in batch}
        query = build_list_query(batch, lookback_ms=0, page_size=100)
        origin, request = self._settings.launchdarkly_url, build_list_request(query)
        published = []
        while leases:
            body = await self._get(request.path, call_id=batch[0].job, route="list")
            page = finish_steps(parse_page_in_steps(body))
            assert isinstance(page, DeploymentPage)
            for item in page.items or ():
                deployment = parse_list_item(item)
                assert isinstance(deployment, Deployment)
                key = (deployment.application_key, deployment.application_version)
                if lease := leases.pop(key, None):
                    found = Found(deployment=deployment, chunks=(item,), calls=1)
                    published.append(self._publish(lease, found))
            if leases:
                href = next_link(page.links) or ""
                next_request = resolve_next_link(href, origin=origin, defaults={"list": query})
                assert isinstance(next_request, ApiRequest)
                request = next_request
        await asyncio.gather(*published)

    async def _get(self, path: str, *, call_id: str, route: str) -> bytes:
        url = URL(self._settings.launchdarkly_url + path, encoded=True)
        async with self._session.get(url) as response:
            body = await response.read()
            rate_limits: RateLimitHeaders = parse_rate_limits(
                response.headers.items(), route=route, now_ms=int(time.time() * 1000)
            )
        self._budget.record(call_id, "ok", rate_limits, scope="default/production")
        return body

    async def _publish(self, lease: Lease, found: Found) -> None:
        entry = self._builder.build(found, lease, now_ms=lease.now)
        assert isinstance(entry, Entry)
        result = await self._output.append_and_settle(entry, lease)
        self._runtime.log.info(
            "deployment_published",
            **lease_log_fields(lease) | {"deployment_id": entry.deployment_id},
            calls=found.calls,
            revision=result.revision,
            complete=entry.complete,
        )


def build_receive(
    runtime: Runtime, settings: Settings
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler that verifies, maps and keeps a webhook of the source ``native``."""
    secret = settings.webhook_secret.reveal()
    sources = read_configured_sources("", native_secrets=[secret], environ={})
    source = sources["native"]

    async def receive(request: web.Request) -> web.Response:
        signed_request = SignedRequest(request.headers, request.query, await request.read())
        if not is_genuine(source.checks, signed_request, now_s=time.time()):
            return web.Response(status=401)
        event = parse_webhook(source, signed_request)
        assert isinstance(event, DeploymentEvent)
        queued = await runtime.backlog.add(event)
        assert isinstance(queued, Queued)
        runtime.log.info(
            "webhook_queued", source=event.source, delivery=event.delivery, job=queued.job
        )
        answer = {"status": "queued", "job": queued.job, "delivery": event.delivery}
        return web.Response(
            status=202, body=msgspec.json.encode(answer), content_type="application/json"
        )

    return receive


async def main() -> None:
    """Run the mode that the command line names."""
    settings = read_settings(os.environ)
    async with open_runtime(settings, build_log(pretty=False)) as runtime:
        if sys.argv[1] == "receiver":
            await serve_receiver(build_receive(runtime, settings))
        token = runtime.access_token.reveal()
        async with open_session(token, max_connections=settings.concurrency) as session:
            print("ready", flush=True)
            await ContentFloor(runtime, session, settings).work()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:  # the loop of the service
        runner.run(main())
