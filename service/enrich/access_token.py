"""LaunchDarkly's access token, which can be replaced while calls are made."""

from weakref import WeakSet

from aiohttp import ClientSession


class AccessToken:
    """The token that every authorized session sends with its next call."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._sessions: WeakSet[ClientSession] = WeakSet()

    def reveal(self) -> str:
        """Return the token itself."""
        return self._token

    def authorize(self, session: ClientSession) -> None:
        """Let a session send the token, and each one that replaces it."""
        session.headers["Authorization"] = self._token
        self._sessions.add(session)

    def replace(self, token: str) -> bool:
        """Send another token from the next call on; return whether it is another one."""
        is_changed, self._token = token != self._token, token
        for session in self._sessions:
            session.headers["Authorization"] = token
        return is_changed
