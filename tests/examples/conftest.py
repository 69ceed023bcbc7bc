"""Fixtures of the examples: a Redis with records, and a way to run an example as a user does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doc_blocks import PageEnvironment, open_environment


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[PageEnvironment]:
    """Open an environment with a Redis and without a service."""
    with open_environment(tmp_path, with_service=False) as opened:
        yield opened


@pytest.fixture
def environment_with_service(tmp_path: Path) -> Iterator[PageEnvironment]:
    """Open an environment with a running service."""
    with open_environment(tmp_path, with_service=True) as opened:
        yield opened
