"""What do the tests of the door share? The presets that ship, and a source of each kind."""

from importlib.resources import files

import pytest

from service.accept.sources import Source, load_sources, native_source

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cyE="
GITHUB = """
[[source]]
name = "github"
preset = "github"
secrets = ["env:GITHUB_SECRET"]
project = "default"
environments = { "Production (EU)" = "prod-eu" }
applications = { "web-frontend" = "web" }
"""


@pytest.fixture(scope="session")
def presets() -> str:
    """Give the text of presets.toml."""
    return files("service.accept").joinpath("presets.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def native(presets: str) -> Source:
    """Give the source that there is without a file."""
    return native_source([SECRET], presets=presets)


@pytest.fixture(scope="session")
def github(presets: str) -> Source:
    """Give a source of GitHub's, whose secret is "secret"."""
    sources = load_sources(GITHUB, presets=presets, read_secret=lambda _: "secret\n")
    return sources["github"]
