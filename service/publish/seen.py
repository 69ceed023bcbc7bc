"""Was this one seen before? The last ids, and no more of them than there is room for."""


class RecentIds:
    """Remembers at least half of ``capacity`` ids, and at most all of it, the newest."""

    def __init__(self, capacity: int) -> None:
        self._half = max(1, capacity // 2)
        self._newer: set[str] = set()
        self._older: set[str] = set()

    def add(self, record_id: str) -> None:
        """Remember an id."""
        self._newer.add(record_id)
        if len(self._newer) >= self._half:
            self._newer, self._older = set(), self._newer

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._newer or record_id in self._older
