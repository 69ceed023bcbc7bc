"""Which sources hold now? The last that could be read, whole."""

import pytest

from service.accept.live import LiveSources
from service.accept.sources import Source, SourceError, load_sources
from tests.accept.desk import Desk

ONE = '[[source]]\nname = "{}"\npreset = "github"\nsecrets = ["env:{}"]\n'


class Shelf:
    """A file of sources, and the secrets that it names."""

    def __init__(self, presets: str) -> None:
        self.text = ONE.format("web", "A")
        self.vault = {"env:A": "first", "env:B": "second"}
        self._presets = presets

    def read(self) -> dict[str, Source]:
        """Load what stands there now."""
        return load_sources(
            self.text, presets=self._presets, read_secret=self.vault.__getitem__, origin="f.toml"
        )


@pytest.fixture
def shelf(presets: str) -> Shelf:
    """Give a shelf with one source on it."""
    return Shelf(presets)


def test_a_new_file_holds_as_a_whole(shelf: Shelf, desk: Desk) -> None:
    """Sources come and go, and the fact names them."""
    live = LiveSources(shelf.read, log=desk)
    assert (list(live), len(live)) == (["web"], 1)
    shelf.text = ONE.format("api", "B")
    live.reload()
    assert list(live) == ["api"]
    assert live.list_warnings() == []
    changes = {"added": ["api"], "removed": ["web"], "secrets_changed": []}
    assert desk.facts == [("sources_reloaded", {"sources": ["api"], **changes})]


def test_secrets_are_read_again_too(shelf: Shelf, desk: Desk) -> None:
    """The file is the same, what it names is not; the fact says whose, and not what."""
    live = LiveSources(shelf.read, log=desk)
    shelf.vault["env:A"] = "rotated"
    live.reload()
    assert live["web"].secrets == ("rotated",)
    assert desk.facts[0][1]["secrets_changed"] == ["web"]
    assert "rotated" not in str(desk.facts)


def test_a_mistake_keeps_the_old_sources_and_is_told_until_it_is_mended(
    shelf: Shelf, desk: Desk
) -> None:
    """One warning with the line, and none any more when the file is well."""
    live = LiveSources(shelf.read, log=desk)
    well, before = shelf.text, live["web"]
    shelf.text = well + ONE.format("web", "B")
    live.reload()
    assert live["web"] is before
    (warning,) = live.list_warnings()
    assert 'f.toml:6: source "web": name: line 2 has the same' in warning
    ((event, facts),) = desk.facts
    assert (event, facts["sources"]) == ("sources_kept", ["web"])
    assert str(facts["reason"]) in warning
    shelf.text = well
    live.reload()
    assert live.list_warnings() == []


def test_there_must_be_sources_to_begin_with(shelf: Shelf, desk: Desk) -> None:
    """A mistake at start-up is no warning."""
    shelf.vault.clear()
    with pytest.raises(SourceError, match="env:A is not set"):
        LiveSources(shelf.read, log=desk)
