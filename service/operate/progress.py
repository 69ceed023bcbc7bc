"""How far is it? A bar that moves on a terminal, a line for each step where there is none."""

from typing import Protocol

from service.operate.columns import truncate_text

_BAR_WIDTH = 24


class TextOutput(Protocol):
    """Where it is shown."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> object:
        """Show it now."""


class Progress:
    """One thing that goes on, shown on a stream; ``columns`` is how wide a terminal is."""

    def __init__(self, stream: TextOutput, *, is_terminal: bool, columns: int = 80) -> None:
        self._stream = stream
        self._is_terminal = is_terminal
        self._columns = columns

    def show(self, fraction: float, text: str) -> None:
        """Show which part of it is done, from 0 to 1, and what there is to say."""
        if self._is_terminal:
            filled = round(_BAR_WIDTH * fraction)
            line = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {fraction:4.0%}  {text}"
            self._stream.write(f"\r\x1b[K{truncate_text(line, self._columns - 1)}")
        else:
            self._stream.write(f"{fraction:4.0%}  {text}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave what was shown last, and go to the next line."""
        if self._is_terminal:
            self._stream.write("\n")
            self._stream.flush()
