"""Lines: the places of due tickets in the backlog, as ``lua/lib_lines.lua`` defines them."""

import math

from service.store.script import read_lua

_PLACES = 2**31
_EPOCH_S = 1_704_067_200


def due_since_ms(score: float) -> float:
    """Return when a ticket was due or its lease ends (epoch ms), by its score in the backlog.

    A negative score is a place in a line. It holds the second in which the ticket became due.
    """
    return score if score >= 0 else (math.floor(score) % _PLACES + _EPOCH_S) * 1000.0


def load_lines_lua() -> str:
    """Return the Lua functions that place a ticket in a line."""
    return read_lua(__package__, "lib_lines")
