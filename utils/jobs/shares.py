"""Shares of work, i of n: which files, which rows, which ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from utils.cli.options.checks import parse_share

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """Share `index` of `count` equal ones; index = 0, ..., count - 1."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str | None, flag: str) -> Share:
        """`Share.parse("2/8", "--shard") == Share(2, 8)`; None is the whole. Raises UserError."""
        return cls(*parse_share(text, flag))

    def split(self, index: int, count: int) -> Share:
        """Part `index` of `count` of this share.

        >>> print(Share(1, 2).split(2, 3))
        5/6"""
        return Share(self.index * count + index, self.count * count)

    def of(self, size: int) -> range:
        """The positions of 0 .. size - 1 that fall to this share: contiguous, none twice.

        >>> [Share(i, 3).of(8) for i in range(3)]
        [range(0, 2), range(2, 5), range(5, 8)]"""
        return range(size * self.index // self.count, size * (self.index + 1) // self.count)

    def weighed(self, items: Sequence[Item], costs: Sequence[float]) -> list[Item]:
        """The items of this share, in their order, so that all shares cost about the same.

        The dearest first, each to the share with the least so far: the dearest share costs at
        most 4/3 of what any other assignment would give (Graham 1969, SIAM J. Appl. Math. 17).

        >>> [Share(i, 2).weighed("abcd", [1, 2, 3, 6]) for i in range(2)]
        [['d'], ['a', 'b', 'c']]"""
        load, mine = [0.0] * self.count, []
        for i in sorted(range(len(items)), key=lambda i: -costs[i]):
            least = load.index(min(load))
            load[least] += costs[i]
            if least == self.index:
                mine.append(i)
        return [items[i] for i in sorted(mine)]


WHOLE = Share()
