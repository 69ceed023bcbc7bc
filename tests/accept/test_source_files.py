"""Reloading of sources."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from service.accept.source_files import ReloadableSources, read_configured_sources
from service.accept.sources import Source, SourceError, load_sources
from tests.accept.receiver_harness import BacklogStub

ONE_SOURCE = '[[source]]\nname = "{}"\npreset = "github"\nsecrets = ["env:{}"]\n'


class SourceFileStub:
    """Stands for a file of sources and the secrets that it names."""

    def __init__(self, presets: str) -> None:
        self.text = ONE_SOURCE.format("web", "A")
        self.secrets = {"env:A": "first", "env:B": "second"}
        self._presets = presets

    def load(self) -> dict[str, Source]:
        """Load the present text."""
        return load_sources(
            self.text, presets=self._presets, read_secret=self.secrets.__getitem__, origin="f.toml"
        )


@pytest.fixture
def source_file(presets: str) -> SourceFileStub:
    """Return a file with one source."""
    return SourceFileStub(presets)


def test_reload_replaces_all_sources(
    source_file: SourceFileStub, backlog_stub: BacklogStub
) -> None:
    """The log event names added and removed sources."""
    sources = ReloadableSources(source_file.load, log=backlog_stub)
    assert (list(sources), len(sources)) == (["web"], 1)
    source_file.text = ONE_SOURCE.format("api", "B")
    sources.reload()
    assert list(sources) == ["api"]
    assert sources.list_warnings() == []
    changes = {"added": ["api"], "removed": ["web"], "secrets_changed": []}
    assert backlog_stub.log_events == [("sources_reloaded", {"sources": ["api"], **changes})]


def test_reload_reads_secrets_again(source_file: SourceFileStub, backlog_stub: BacklogStub) -> None:
    """The log event names the source with a changed secret, not the secret."""
    sources = ReloadableSources(source_file.load, log=backlog_stub)
    source_file.secrets["env:A"] = "rotated"
    sources.reload()
    assert sources["web"].secrets == ("rotated",)
    assert backlog_stub.log_events[0][1]["secrets_changed"] == ["web"]
    assert "rotated" not in str(backlog_stub.log_events)


def test_failed_reload_keeps_the_sources_and_warns_until_fixed(
    source_file: SourceFileStub, backlog_stub: BacklogStub
) -> None:
    """The warning has the mistake, and ends with the next good reload."""
    sources = ReloadableSources(source_file.load, log=backlog_stub)
    valid_text, before = source_file.text, sources["web"]
    source_file.text = valid_text + ONE_SOURCE.format("web", "B")
    sources.reload()
    assert sources["web"] is before
    (warning,) = sources.list_warnings()
    assert 'f.toml: source "web": name: another source has the same name' in warning
    ((event, fields),) = backlog_stub.log_events
    assert (event, fields["sources"]) == ("sources_reload_failed", ["web"])
    assert str(fields["reason"]) in warning
    source_file.text = valid_text
    sources.reload()
    assert sources.list_warnings() == []


def test_byte_order_marks_of_the_file_and_of_a_secret_are_ignored(tmp_path: Path) -> None:
    """Editors on Windows write one (RFC 8259, 8.1, says the same of JSON)."""
    secret, sources = tmp_path / "secret", tmp_path / "sources.toml"
    secret.write_text("a-long-secret-of-ours\n", encoding="utf-8-sig")
    text = ONE_SOURCE.format("web", "A").replace("env:A", f"file:{secret}")
    sources.write_text(text, encoding="utf-8-sig")
    loaded = read_configured_sources(str(sources), native_secrets=(), environ={})
    assert loaded["web"].secrets == ("a-long-secret-of-ours",)


@pytest.mark.parametrize(("secret", "is_refused"), [("x" * 15, True), ("x" * 16, False)])
def test_secret_that_could_be_guessed_is_refused(
    tmp_path: Path, secret: str, *, is_refused: bool
) -> None:
    """It is named by its number, and not printed. The prefix `whsec_` does not count."""
    sources = tmp_path / "sources.toml"
    sources.write_text(ONE_SOURCE.format("web", "A"))
    for path, secrets in ((str(sources), ()), ("", ("whsec_" + "y" * 16, f"whsec_{secret}"))):
        expected = pytest.raises(SourceError) if is_refused else nullcontext()
        with expected as caught:
            read_configured_sources(path, native_secrets=secrets, environ={"A": secret})
        if caught is not None:
            assert "has fewer than 16 characters: take one such as" in str(caught.value)
            assert f"its secret {2 if secrets else 1} " in str(caught.value)
            assert secret not in str(caught.value)


def test_first_load_raises_source_error(
    source_file: SourceFileStub, backlog_stub: BacklogStub
) -> None:
    """A mistake at start is not a warning."""
    source_file.secrets.clear()
    with pytest.raises(SourceError, match="env:A is not set"):
        ReloadableSources(source_file.load, log=backlog_stub)
