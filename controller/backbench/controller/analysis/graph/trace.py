"""What is known, at one value of a graph, about the way from the image to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from backbench.controller.analysis.graph.results import Shape
from backbench.controller.analysis.graph.spans import Span

Spans = tuple[Span, Span]
"""Along the height and along the width."""
Axes = tuple[int, int]
"""Which axes of a tensor are height and width, counted from the end: (-2, -1) for NCHW, (-3, -2) for NHWC."""


class Reach(IntEnum):
    """How much of the image is seen; where branches meet, the greater one holds."""

    LOCAL = 0
    GATED = 1
    UNKNOWN = 2
    GLOBAL = 3


@dataclass(frozen=True, slots=True)
class Trace:
    """The state at one value.

    `spans` is None where the geometry is lost, `axes` where the value has no known axes of space. `before` is what was
    seen where the geometry was lost first. `pooled` is the map that everything was averaged over. `folded` is the
    map that was reshaped into this value and has kept its places since.
    """

    reach: Reach = Reach.LOCAL
    spans: Spans | None = None
    axes: Axes | None = None
    before: Spans | None = None
    pooled: MapTrace | None = None
    folded: MapTrace | None = None

    @staticmethod
    def image() -> Trace:
        """The image: NCHW, every element its own pixel."""
        return Trace(spans=(Span.pixel(), Span.pixel()), axes=(-2, -1))

    def lost(self, reach: Reach = Reach.UNKNOWN, axes: Axes | None = None) -> Trace:
        """The geometry is lost here; what was seen so far is kept."""
        return Trace(max(self.reach, reach), None, axes, self.before or self.spans)

    def at_least(self, reach: Reach) -> Trace:
        """The same with a wider reach; so for the map that a reshaped value stands for."""
        folded = self.folded and replace(self.folded, trace=self.folded.trace.at_least(reach))
        return replace(self, reach=max(self.reach, reach), folded=folded)

    def moved(self, spans: Spans | None) -> Trace:
        """A map made from this one, place by place."""
        return replace(self, spans=spans, folded=None)


@dataclass(frozen=True, slots=True)
class MapTrace:
    """A value and its state."""

    tensor: str
    shape: Shape
    trace: Trace


def joined(traces: Sequence[Trace]) -> Trace:
    """The state where branches meet element by element."""
    maps = [trace for trace in traces if trace.pooled is None]
    if not maps:
        return max(traces, key=_seen)
    result = maps[0]
    for trace in maps[1:]:
        result = _pair(result, trace)
    return result.at_least(Reach.GATED) if len(maps) < len(traces) else result


def _pair(one: Trace, two: Trace) -> Trace:
    reach = max(one.reach, two.reach)
    befores = [trace.before for trace in (one, two) if trace.before is not None]
    before = min(befores, key=lambda spans: spans[0].width) if befores else None
    folded = one.folded if one.folded and two.folded and one.folded.shape == two.folded.shape else None
    if one.spans is None or two.spans is None:
        axes = one.axes or two.axes
        return Trace(max(reach, Reach.UNKNOWN), None, axes, before, None, folded)
    rows, columns = (first.joined(second) for first, second in zip(one.spans, two.spans, strict=True))
    if one.axes != two.axes or rows is None or columns is None:
        return one.lost(reach=max(reach, Reach.UNKNOWN))
    return Trace(reach, (rows, columns), one.axes, before)


def _seen(trace: Trace) -> int:
    spans = trace.pooled.trace.spans if trace.pooled else None
    return spans[0].width if spans else 0
