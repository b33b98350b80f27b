"""Intervals of input pixels along one axis, and what windows, steps and scales make of them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Span:
    """The input pixels that a map's elements see along one axis, as a straight line.

    Element i sees the pixels from `first + i * step` to `last + i * step`, both counted in and possibly outside of the
    image; `step` is the effective stride.

    >>> Span.pixel().window(kernel=7, stride=2, pad=3).window(kernel=3, stride=2, pad=1).width
    11
    """

    first: Fraction
    last: Fraction
    step: Fraction

    @staticmethod
    def pixel() -> Span:
        """The image itself: every element sees its own pixel."""
        return Span(Fraction(0), Fraction(0), Fraction(1))

    @property
    def width(self) -> int:
        """How many pixels are seen, rounded up."""
        return -(-(self.last - self.first) // 1) + 1

    @property
    def centre(self) -> float:
        """The middle of what the first element sees."""
        return float((self.first + self.last) / 2)

    def window(self, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> Span:
        """Behind a convolution or a pooling with `pad` elements added in front."""
        first = self.first - pad * self.step
        last = self.last + (dilation * (kernel - 1) - pad) * self.step
        return Span(first, last, self.step * stride)

    def picked(self, start: int, step: int = 1) -> Span:
        """Every `step`-th element from `start` on."""
        return Span(self.first + start * self.step, self.last + start * self.step, self.step * step)

    def resized(self, scale: Fraction, taps: int, shift: Fraction | None = None) -> Span:
        """Elements `scale` times as many, each made of `taps` neighbours.

        `shift` is where the first one lies between the old ones; without it, both maps cover the same area.
        """
        where = (1 / scale - 1) / 2 if shift is None else shift
        middle = (self.first + self.last) / 2 + where * self.step
        half = (self.last - self.first + (taps - 1) * self.step) / 2
        return Span(middle - half, middle + half, self.step / scale)

    def joined(self, other: Span) -> Span | None:
        """What two branches that meet see together; None if they are at different strides."""
        if self.step != other.step:
            return None
        return Span(min(self.first, other.first), max(self.last, other.last), self.step)
