"""The Redis keys of one namespace, all in one Cluster slot."""

from functools import cached_property, lru_cache
from urllib.parse import quote

from msgspec import Struct


def clock_key(key: str) -> str:
    """Return the key of the clock of the namespace that a key belongs to."""
    return f"{key.partition('}')[0]}}}:clock"


class Keys(Struct, frozen=True, dict=True):
    """The names of all keys of one namespace (one namespace per LaunchDarkly account).

    The braces are a Redis Cluster hash tag, so every script touches one slot only. A name is made
    once, when it is first read.
    """

    namespace: str

    def _key(self, name: str) -> str:
        return f"{{{self.namespace}}}:{name}"

    @cached_property
    def backlog(self) -> str:
        """Sorted set: job -> when it is due or its lease ends (ms), or its place in a line."""
        return self._key("backlog")

    @cached_property
    def tickets(self) -> str:
        """Hash: job -> header and ticket."""
        return self._key("tickets")

    @cached_property
    def turns(self) -> str:
        """Hash: who had the last turns, calls since the last retry, when a worker claimed (ms)."""
        return self._key("turns")

    @cached_property
    def wakeup(self) -> str:
        """List: one element wakes one idle worker; it may hold a lease for this worker."""
        return self._key("wakeup")

    def worker_wakeup(self, token: str) -> str:
        """Return the key of the list that wakes one worker alone, so that it can stop."""
        return self._key(f"wakeup:{token}")

    @cached_property
    def waiting_worker(self) -> str:
        """String: exists while a worker waits for a wakeup."""
        return self._key("waiting-worker")

    @cached_property
    def budget(self) -> str:
        """Hash: the rate-limit windows as LaunchDarkly last reported them."""
        return self._key("budget")

    @cached_property
    def budget_calls(self) -> str:
        """Sorted set: calls in flight -> when they count as lost (ms)."""
        return self._key("budget:calls")

    @cached_property
    def budget_waiting(self) -> str:
        """Sorted set: deployments already begun that wait for a call -> until when (ms)."""
        return self._key("budget:waiting")

    @cached_property
    def forbidden(self) -> str:
        """Sorted set: project and environment that the token may not read -> until when (ms)."""
        return self._key("forbidden")

    @cached_property
    def refreshes(self) -> str:
        """Sorted set: deployment id -> when its refresh is due, if spare calls remain (ms)."""
        return self._key("refreshes")

    @cached_property
    def refresh_tickets(self) -> str:
        """Hash: deployment id -> header and ticket of its refresh."""
        return self._key("refreshes:tickets")

    @cached_property
    def failed(self) -> str:
        """Sorted set: job -> when it failed (ms)."""
        return self._key("failed")

    @cached_property
    def failed_data(self) -> str:
        """Hash: job -> the reason, and what a person or a retry needs beside the raw data."""
        return self._key("failed:data")

    @cached_property
    def failed_raw(self) -> str:
        """Hash: job -> LaunchDarkly's response or the body of the webhook, compressed (zlib)."""
        return self._key("failed:raw")

    @cached_property
    def counts(self) -> str:
        """Hash: number of leased tickets, of failed tickets by reason, of appended records."""
        return self._key("counts")

    @cached_property
    def milestones(self) -> str:
        """Sorted set: id of every 64th record -> number of records appended up to it."""
        return self._key("enriched:milestones")

    @cached_property
    def clock(self) -> str:
        """String: the latest time of the scripts, and how far Redis's clock is behind it (ms)."""
        return self._key("clock")

    @cached_property
    def write_probe(self) -> str:
        """String: written to test whether Redis accepts writes; expires within a second."""
        return self._key("probe")

    def script_reply(self, token: str) -> str:
        """Return the key of the reply of one script call, kept in case it is lost."""
        return self._key(f"reply:{token}")

    @cached_property
    def enriched(self) -> str:
        """Stream: the enriched records."""
        return self._key("enriched")

    @cached_property
    def reader_groups(self) -> str:
        """Hash: reader group -> when it was active and when that was read (ms), its position."""
        return self._key("reader-groups")

    def reconcile(self, scope: str) -> str:
        """Return the key of one scope's hash: its checkpoint, and the run that holds its lease."""
        return self._key(f"reconcile:{scope}")

    def delivery(self, source: str, delivery: str) -> str:
        """Return the key of the mark of one delivery of one source."""
        return self._key(f"delivery:{source}:{delivery}")

    def reported(self, version: str) -> str:
        """Return the key of one version's hash: the end and the start that were reported (ms)."""
        return self._key(f"reported:{version}")

    def published(self, deployment_id: str) -> str:
        """Return the key of one deployment's hash.

        It holds the last revision with its digest and change, since when it is refreshed, the lease
        that settled last, and by which event each source reported it.
        """
        return self._key(f"published:{deployment_id}")

    def history(self, project: str, environment: str, application: str) -> str:
        """Return the key of the list of the last deployments that ended there.

        See ``history.py`` of ``publish``. An unknown part is empty.
        """
        return self._key(f"history:{_quote_scope(project, environment, application)}")


@lru_cache(maxsize=1024)  # a worker publishes for the same few again and again
def _quote_scope(*parts: str) -> str:
    return "/".join([quote(part, safe="*") for part in parts])
