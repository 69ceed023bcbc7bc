"""Which sources hold now? The last that could be read, whole."""

import pytest

from service.accept.source_files import ReloadableSources
from service.accept.sources import Source, SourceError, load_sources
from tests.accept.receiver_harness import BacklogStub

ONE_SOURCE = '[[source]]\nname = "{}"\npreset = "github"\nsecrets = ["env:{}"]\n'


class SourceFileStub:
    """A file of sources, and the secrets that it names."""

    def __init__(self, presets: str) -> None:
        self.text = ONE_SOURCE.format("web", "A")
        self.secrets = {"env:A": "first", "env:B": "second"}
        self._presets = presets

    def load(self) -> dict[str, Source]:
        """Load what stands there now."""
        return load_sources(
            self.text, presets=self._presets, read_secret=self.secrets.__getitem__, origin="f.toml"
        )


@pytest.fixture
def source_file(presets: str) -> SourceFileStub:
    """Give a shelf with one source on it."""
    return SourceFileStub(presets)


def test_a_new_file_holds_as_a_whole(
    source_file: SourceFileStub, backlog_stub: BacklogStub
) -> None:
    """Sources come and go, and the fact names them."""
    live = ReloadableSources(source_file.load, log=backlog_stub)
    assert (list(live), len(live)) == (["web"], 1)
    source_file.text = ONE_SOURCE.format("api", "B")
    live.reload()
    assert list(live) == ["api"]
    assert live.list_warnings() == []
    changes = {"added": ["api"], "removed": ["web"], "secrets_changed": []}
    assert backlog_stub.log_events == [("sources_reloaded", {"sources": ["api"], **changes})]


def test_secrets_are_read_again_too(source_file: SourceFileStub, backlog_stub: BacklogStub) -> None:
    """The file is the same, what it names is not; the fact says whose, and not what."""
    live = ReloadableSources(source_file.load, log=backlog_stub)
    source_file.secrets["env:A"] = "rotated"
    live.reload()
    assert live["web"].secrets == ("rotated",)
    assert backlog_stub.log_events[0][1]["secrets_changed"] == ["web"]
    assert "rotated" not in str(backlog_stub.log_events)


def test_a_mistake_keeps_the_old_sources_and_is_told_until_it_is_mended(
    source_file: SourceFileStub, backlog_stub: BacklogStub
) -> None:
    """One warning with the line, and none any more when the file is well."""
    live = ReloadableSources(source_file.load, log=backlog_stub)
    well, before = source_file.text, live["web"]
    source_file.text = well + ONE_SOURCE.format("web", "B")
    live.reload()
    assert live["web"] is before
    (warning,) = live.list_warnings()
    assert 'f.toml: source "web": name: another source has the same name' in warning
    ((event, facts),) = backlog_stub.log_events
    assert (event, facts["sources"]) == ("sources_reload_failed", ["web"])
    assert str(facts["reason"]) in warning
    source_file.text = well
    live.reload()
    assert live.list_warnings() == []


def test_there_must_be_sources_to_begin_with(
    source_file: SourceFileStub, backlog_stub: BacklogStub
) -> None:
    """A mistake at start-up is no warning."""
    source_file.secrets.clear()
    with pytest.raises(SourceError, match="env:A is not set"):
        ReloadableSources(source_file.load, log=backlog_stub)
