"""Large JSON: its long arrays are cut out item by item, in steps.

msgspec decodes a text at once, which blocks the event loop for long if the text is large. But it
names where the first value of a text ends: its error "trailing characters (byte 8)" means that the
value is followed by the eighth byte. So one value after the other is read here.
"""

import re
from collections.abc import Collection, Iterable, Iterator

import msgspec
from msgspec import Raw, Struct

from .steps import Steps

Path = tuple[str, ...]
Chunk = bytes | Raw | memoryview

_STEP_BYTES = 1 << 18
_SPACE_BYTES = b" \t\n\r"
_SPACES = re.compile(rb"[ \t\n\r]*")
_TRAILING = re.compile(r"trailing characters \(byte ([0-9]+)\)")
_decode_raw = msgspec.json.Decoder(Raw).decode


class SplitJson(Struct, frozen=True):
    """A JSON text without the items of its arrays at some paths, and these items.

    ``pieces`` are the text around the arrays, one more than ``paths``, which are those of the
    arrays in their order. If the text repeats a field, the last array of a path has its items.
    """

    pieces: tuple[memoryview, ...]
    paths: tuple[Path, ...]
    items: dict[Path, list[Raw]]

    @property
    def frame(self) -> bytes:
        """The text with empty arrays. It is JSON if the text was."""
        return b"".join(self.pieces)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the text with the items, which may be others than before."""
        last_index = {path: index for index, path in enumerate(self.paths)}
        yield self.pieces[0]
        for index, path in enumerate(self.paths):
            for position, item in enumerate(self.items[path] if last_index[path] == index else ()):
                if position:
                    yield b","
                yield item
            yield self.pieces[index + 1]


def measure_chunks(chunks: Iterable[Chunk]) -> int:
    """Return the bytes of all chunks."""
    return sum([memoryview(chunk).nbytes for chunk in chunks])


def split_arrays(text: bytes, paths: Collection[Path]) -> Steps[SplitJson]:
    """Cut the items of the arrays at these paths of objects out of a JSON text.

    Raises msgspec.DecodeError if the text is not JSON up to the last array.
    """
    splitter = _Splitter(text, paths)
    yield from splitter.split_value(())
    return splitter.finish()


class _Splitter:
    """Reads the text from the start to the end."""

    def __init__(self, text: bytes, paths: Collection[Path]) -> None:
        self._text = text
        self._view = memoryview(text)
        self._position = 0
        self._step_end = _STEP_BYTES
        self._paths = paths
        self._parents = {path[:length] for path in paths for length in range(len(path))}
        self._cuts: list[tuple[int, int]] = []
        self._cut_paths: list[Path] = []
        self._items: dict[Path, list[Raw]] = {}

    def split_value(self, path: Path) -> Steps[None]:
        """Read one value; cut out the items of it or of the arrays in it."""
        if path in self._paths and self._skip(b"["):
            yield from self._cut_items(path)
        elif path in self._parents and self._skip(b"{"):
            yield from self._split_object(path)
        else:
            self._read_value()

    def finish(self) -> SplitJson:
        """Return the text as it is split."""
        ends = [0, *(end for _, end in self._cuts)]
        starts = [*(start for start, _ in self._cuts), len(self._text)]
        pieces = [self._view[end:start] for end, start in zip(ends, starts, strict=True)]
        return SplitJson((*pieces,), (*self._cut_paths,), self._items)

    def _split_object(self, path: Path) -> Steps[None]:
        if self._skip(b"}"):
            return
        while True:
            key = msgspec.json.decode(self._read_value(), type=str)
            self._expect(b":")
            yield from self.split_value((*path, key))
            if self._skip(b"}"):
                return
            self._expect(b",")

    def _cut_items(self, path: Path) -> Steps[None]:
        start = self._position
        items: list[Raw] = []
        while not self._skip(b"]"):
            if items:
                self._expect(b",")
            items.append(Raw(self._read_value()))
            if self._position >= self._step_end:
                self._step_end = self._position + _STEP_BYTES
                yield
        self._cuts.append((start, self._position - 1))
        self._cut_paths.append(path)
        self._items[path] = items

    def _read_value(self) -> memoryview:
        start = self._skip_spaces()
        try:
            _decode_raw(self._view[start:])
            self._position = len(self._text)
        except msgspec.DecodeError as error:
            trailing = _TRAILING.search(str(error))
            if trailing is None:
                raise
            self._position = start + int(trailing[1]) - 1
        end = self._position
        while end > start and self._text[end - 1] in _SPACE_BYTES:
            end -= 1
        return self._view[start:end]

    def _skip(self, token: bytes) -> bool:
        start = self._skip_spaces()
        is_next = self._text.startswith(token, start)
        self._position = start + is_next
        return is_next

    def _expect(self, token: bytes) -> None:
        if not self._skip(token):
            raise msgspec.DecodeError(f"JSON is malformed: no {token!r} (byte {self._position})")

    def _skip_spaces(self) -> int:
        found = _SPACES.match(self._text, self._position)
        return self._position if found is None else found.end()
