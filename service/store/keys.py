"""Which keys do we keep? All of one namespace, all in one Cluster slot."""

from msgspec import Struct


class Keys(Struct, frozen=True):
    """The names of every key of one namespace (design: one per LaunchDarkly account).

    The braces are a Redis Cluster hash tag: every script touches one slot only.
    """

    namespace: str

    def _key(self, name: str) -> str:
        return f"{{{self.namespace}}}:{name}"

    @property
    def backlog(self) -> str:
        """Sorted set: job -> when it is due, or when its lease ends (ms)."""
        return self._key("backlog")

    @property
    def tickets(self) -> str:
        """Hash: job -> header and ticket."""
        return self._key("tickets")

    @property
    def wakeup(self) -> str:
        """List: one element wakes one idle worker."""
        return self._key("wakeup")

    @property
    def budget(self) -> str:
        """Hash: the rate-limit windows as the server last told them."""
        return self._key("budget")

    @property
    def budget_calls(self) -> str:
        """Sorted set: calls in flight -> when we stop believing in them (ms)."""
        return self._key("budget:calls")

    @property
    def budget_waiting(self) -> str:
        """Sorted set: begun deployments that wait for one more call -> until when (ms)."""
        return self._key("budget:waiting")

    @property
    def refreshes(self) -> str:
        """Sorted set: deployment id -> when it is looked at, if calls are left over (ms)."""
        return self._key("refreshes")

    @property
    def refresh_tickets(self) -> str:
        """Hash: deployment id -> header and ticket to look with."""
        return self._key("refreshes:tickets")

    @property
    def failed(self) -> str:
        """Sorted set: job -> when it was given up (ms)."""
        return self._key("failed")

    @property
    def failed_data(self) -> str:
        """Hash: job -> why, and all that a person needs to judge."""
        return self._key("failed:data")

    @property
    def counts(self) -> str:
        """Hash: how many are leased, how many failed for each reason, how many were appended."""
        return self._key("counts")

    @property
    def milestones(self) -> str:
        """Sorted set: id of every 64th record -> how many had been appended with it."""
        return self._key("enriched:milestones")

    @property
    def write_probe(self) -> str:
        """String: written to see whether anything can be, gone within a second."""
        return self._key("probe")

    def claim_reply(self, token: str) -> str:
        """Name the mark of one claim: what it leased, should its reply be lost."""
        return self._key(f"reply:{token}")

    def failed_reply(self, token: str) -> str:
        """Name the mark of one act of a person: what it did, should its reply be lost."""
        return self._key(f"reply:{token}")

    @property
    def enriched(self) -> str:
        """Stream: the output."""
        return self._key("enriched")

    @property
    def reader_groups(self) -> str:
        """Hash: reader group -> when it was last known to live (ms)."""
        return self._key("reader-groups")

    def reconcile(self, scope: str) -> str:
        """Name the hash of what is listed again and again: how far it is, and who is at it."""
        return self._key(f"reconcile:{scope}")

    def delivery(self, source: str, delivery: str) -> str:
        """Name the mark of one delivery of one source."""
        return self._key(f"delivery:{source}:{delivery}")

    def published(self, deployment_id: str) -> str:
        """Name the hash of one deployment's last revision and content digest."""
        return self._key(f"published:{deployment_id}")
