"""The addresses under which a command reaches Redis and the receiver."""

from service.settings import Settings, data_directory
from service.store.embedded import socket_path


def resolve_redis_url(settings: Settings) -> str:
    """Return the configured Redis URL, or that of the embedded server if none is set."""
    embedded_url = f"unix://{socket_path(data_directory(settings))}"
    return settings.redis_url.reveal() or embedded_url


def local_receiver_url(settings: Settings) -> str:
    """Return the URL on which the receiver of this machine listens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"
