# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of overlapping windows that the command line, the block and the benchmark share."""

from dataclasses import dataclass
from typing import Iterator


@dataclass(frozen=True)
class Window:
    """One window of a stream: samples start .. start + length, of which keep_from .. keep_to go to the output.

    All are sample numbers of the stream. number: 0, 1, 2, ...
    """

    number: int
    start: int
    length: int
    keep_from: int
    keep_to: int


@dataclass(frozen=True)
class Plan:
    """Windows of `window` samples that overlap by `overlap`; of each overlap either window keeps its inner half.

    A window's ends are its weak spots: signals reach beyond them. Only interiors are kept, apart from the stream's own
    two ends. align: window starts are multiples of it (samples per symbol of the SOI). Raises ValueError unless
    window >= 1, 0 <= overlap < window and window - overlap is a multiple of align.
    """

    window: int = 2560
    overlap: int = 256
    align: int = 1

    def __post_init__(self):
        if self.window < 1 or self.align < 1:
            raise ValueError(f"a window of {self.window} samples is impossible; it needs at least 1")
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"an overlap of {self.overlap} samples is impossible; allowed are 0 to {self.window - 1} "
                             f"for windows of {self.window}")
        if self.hop % self.align:
            raise ValueError(f"window - overlap is {self.hop} samples; it must be a multiple of the SOI's {self.align} "
                             "samples per symbol")

    @property
    def hop(self) -> int:
        """Samples from one window's start to the next's."""
        return self.window - self.overlap

    @property
    def margin(self) -> int:
        """Samples at each end of a window that are thrown away inside a stream."""
        return self.overlap // 2

    def regular(self, number: int) -> Window:
        """Window `number` of a stream that goes on after it."""
        start = number * self.hop
        begin = start + self.margin if number else 0
        return Window(number, start, self.window, begin, start + self.hop + self.margin)

    def count_before_end(self, length: int) -> int:
        """Number of regular windows in a stream of `length` samples, before the last one."""
        return max(0, -(-(length - self.window) // self.hop))

    def last(self, length: int) -> Window:
        """The window that ends a stream of `length` samples. It reaches back so that it is full where it can be.

        Up to align - 1 of its samples may lie beyond the end, all that are missing where the stream is shorter.
        """
        number = self.count_before_end(length)
        start = max(0, -(-(length - self.window) // self.align) * self.align)
        begin = self.regular(number - 1).keep_to if number else 0
        return Window(number, start, self.window, begin, length)

    def windows(self, length: int) -> Iterator[Window]:
        """All windows of a stream of `length` >= 1 samples; their kept parts cover it without gap or overlap."""
        for number in range(self.count_before_end(length)):
            yield self.regular(number)
        yield self.last(length)


def default_overlap(window: int, align: int) -> int:
    """The smallest overlap from a tenth of a window on that keeps window starts on the SOI's symbols."""
    smallest = window // 10
    overlap = smallest + (window - smallest) % align if align > 1 else smallest
    return overlap if overlap < window else window % align  # windows of hardly more than a symbol
