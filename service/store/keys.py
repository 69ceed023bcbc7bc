"""Which keys do we keep? All of one namespace, all in one Cluster slot."""

from msgspec import Struct


class Keys(Struct, frozen=True):
    """The names of every key of one namespace (design: one per LaunchDarkly account).

    The braces are a Redis Cluster hash tag: every script touches one slot only.
    """

    namespace: str

    def _named(self, name: str) -> str:
        return f"{{{self.namespace}}}:{name}"

    @property
    def backlog(self) -> str:
        """Sorted set: job -> when it is due, or when its lease ends (ms)."""
        return self._named("backlog")

    @property
    def tickets(self) -> str:
        """Hash: job -> header and ticket."""
        return self._named("tickets")

    @property
    def bell(self) -> str:
        """List: one element wakes one idle worker."""
        return self._named("bell")

    @property
    def budget(self) -> str:
        """Hash: the rate-limit windows as the server last told them."""
        return self._named("budget")

    @property
    def calls(self) -> str:
        """Sorted set: calls in flight -> when we stop believing in them (ms)."""
        return self._named("budget:calls")

    @property
    def callers(self) -> str:
        """Sorted set: begun deployments that wait for one more call -> until when (ms)."""
        return self._named("budget:callers")

    @property
    def looks(self) -> str:
        """Sorted set: deployment id -> when it is looked at, if calls are left over (ms)."""
        return self._named("looks")

    @property
    def look_tickets(self) -> str:
        """Hash: deployment id -> header and ticket to look with."""
        return self._named("looks:tickets")

    @property
    def failed(self) -> str:
        """Sorted set: job -> when it was given up (ms)."""
        return self._named("failed")

    @property
    def failures(self) -> str:
        """Hash: job -> why, and all that a person needs to judge."""
        return self._named("failed:data")

    @property
    def counts(self) -> str:
        """Hash: how many are leased, how many failed for each reason, how many were appended."""
        return self._named("counts")

    @property
    def milestones(self) -> str:
        """Sorted set: id of every 64th record -> how many had been appended with it."""
        return self._named("enriched:milestones")

    @property
    def probe(self) -> str:
        """String: written to see whether anything can be, gone within a second."""
        return self._named("probe")

    def claim(self, token: str) -> str:
        """Name the mark of one claim: what it leased, should its reply be lost."""
        return self._named(f"claim:{token}")

    def repair(self, token: str) -> str:
        """Name the mark of one act of a person: what it did, should its reply be lost."""
        return self._named(f"repair:{token}")

    @property
    def enriched(self) -> str:
        """Stream: the output."""
        return self._named("enriched")

    @property
    def readers(self) -> str:
        """Hash: reader group -> when it was last known to live (ms)."""
        return self._named("readers")

    def round(self, name: str) -> str:
        """Name the hash of what is listed again and again: how far it is, and who is at it."""
        return self._named(f"round:{name}")

    def delivery(self, source: str, delivery: str) -> str:
        """Name the mark of one delivery of one source."""
        return self._named(f"delivery:{source}:{delivery}")

    def published(self, deployment_id: str) -> str:
        """Name the hash of one deployment's last revision and content digest."""
        return self._named(f"published:{deployment_id}")
