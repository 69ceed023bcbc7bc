"""Was this one seen before? The last ids, and no more of them than there is room for."""


class Seen:
    """Remembers at least half of ``capacity`` ids, and at most all of it, the newest."""

    def __init__(self, capacity: int) -> None:
        self._half = max(1, capacity // 2)
        self._newer: set[str] = set()
        self._older: set[str] = set()

    def add(self, name: str) -> None:
        """Remember an id."""
        self._newer.add(name)
        if len(self._newer) >= self._half:
            self._newer, self._older = set(), self._newer

    def __contains__(self, name: str) -> bool:
        return name in self._newer or name in self._older
