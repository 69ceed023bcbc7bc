"""Which number does chance give to this seed and this thing? Always the same one."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from struct import Struct
from typing import TypeVar
from uuid import UUID

T = TypeVar("T")

_NUMBERS = Struct("<16I")


class SeededRandom:
    """Numbers in a row, made from a seed and the name of the thing that they describe.

    Two worlds with the same seed agree on every deployment, in whatever order they are asked.
    """

    def __init__(self, seed: int, *name: object) -> None:
        self._numbers = _generate_numbers("/".join(map(str, (seed, *name))).encode())

    def between(self, low: int, high: int) -> int:
        """Give a number from low to high, both included."""
        return low + next(self._numbers) % (high - low + 1)

    def happens(self, probability: float) -> bool:
        """Say yes as often as the share (0 to 1) demands."""
        return self.between(0, 999_999) < probability * 1_000_000

    def choose(self, choices: Sequence[T]) -> T:
        """Take one of the choices."""
        return choices[self.between(0, len(choices) - 1)]


def seeded_hex(seed: int, *name: object) -> str:
    """Give 40 hexadecimal digits, as long as a commit's hash."""
    return blake2b("/".join(map(str, (seed, *name))).encode(), digest_size=20).hexdigest()


def seeded_uuid(seed: int, *name: object) -> str:
    """Give a well-formed random-looking UUID (version 4)."""
    digest = blake2b("/".join(map(str, (seed, *name))).encode(), digest_size=16).digest()
    return str(UUID(bytes=digest, version=4))


def _generate_numbers(name: bytes) -> Iterator[int]:
    block = b""
    while True:
        block = blake2b(name, key=block).digest()
        yield from _NUMBERS.unpack(block)
