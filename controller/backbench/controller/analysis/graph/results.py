"""What the static analysis of a graph gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
Context = Literal["local", "gated", "global"]
"""How much of the image an element depends on.

local: its receptive field. gated: as well, through a branch that reduces over the whole map and scales or shifts it
back, such as squeeze-and-excitation. global: the whole image, through attention or another mixing of all places.
"""


@dataclass(frozen=True, slots=True)
class Field:
    """The receptive field of a feature map's elements, in pixels of the input, (height, width).

    `offset_px` is the centre of the first element's field, counted from the centre of the image's first pixel. What
    lies outside the image is part of the field: it is what padding stands for.
    """

    receptive_px: tuple[int, int]
    stride_px: tuple[float, float]
    offset_px: tuple[float, float]


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """A tensor with two axes of space; `field` is None behind attention and wherever reshaping hides the geometry.

    `stride_px` is then the ratio of the image's size to the map's, and None where that is not a whole number.
    """

    tensor: str
    shape: Shape
    layout: str
    stride_px: tuple[float, float] | None
    field: Field | None

    @property
    def channels(self) -> int:
        """How many numbers the map has at one place."""
        return self.shape[1 if self.layout == "NCHW" else -1]


@dataclass(frozen=True, slots=True)
class OutputReach:
    """What one output of the graph sees of the image.

    `map` is the output itself if it is a feature map, or, where `pooled`, the last map before everything was averaged;
    None where there is no such map. `context` is that map's, or the output's own without one, None if unknown.
    `local` is the field up to the first attention or reshaping where the map's own field is unknown.
    """

    name: str
    shape: Shape | None
    pooled: bool
    context: Context | None
    map: FeatureMap | None
    local: Field | None


@dataclass(frozen=True, slots=True)
class Operator:
    """What one operator costs.

    `macs` is None for operators whose work is not counted, and like every number None where sizes are unknown.
    """

    name: str
    op_type: str
    output_shape: Shape | None
    macs: int | None
    counted: bool
    group: Literal["dense", "grouped", "depthwise"] | None
    input_bytes: int | None
    weight_bytes: int | None
    output_bytes: int | None

    @property
    def traffic_bytes(self) -> int | None:
        """Everything read and written."""
        if self.input_bytes is None or self.weight_bytes is None or self.output_bytes is None:
            return None
        return self.input_bytes + self.weight_bytes + self.output_bytes

    @property
    def flop_per_byte(self) -> float | None:
        """Arithmetic intensity; None for operators whose work is not counted."""
        return intensity(self.macs, self.traffic_bytes)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes moved between memory and the processor in one inference.

    `unfused_bytes`: every operator reads its inputs and writes its outputs. `ideal_bytes`: weights, the image and the
    outputs move once, and nothing in between leaves the processor.
    """

    unfused_bytes: int | None
    ideal_bytes: int | None


@dataclass(frozen=True, slots=True)
class GraphAnalysis:
    """A graph at one size, without having run it.

    `parameters` counts stored numbers: floating-point tensors, and integer ones that are dequantised; no literals, no
    scales. `macs` follows the convention of `backbench.controller.analysis.graph.macs`. `activation_peak_bytes` is a
    lower-bound estimate: what is alive at once when the operators run one by one in the graph's order, without the
    workspace and the packed weights of a runtime; fusing can save some of it. A sum is None if one of its parts is.
    """

    parameters: int
    weight_bytes: int
    precision: str
    macs: int | None
    depthwise_macs: int | None
    grouped_macs: int | None
    activation_peak_bytes: int | None
    traffic: Traffic
    operators: tuple[Operator, ...]
    histogram: Mapping[str, int]
    opset: int
    domains: Mapping[str, int]
    input_shape: Shape
    outputs: tuple[OutputReach, ...]

    @property
    def depthwise_share(self) -> float | None:
        """The part of the multiply-adds that are in depthwise convolutions."""
        return share(self.depthwise_macs, self.macs)

    @property
    def grouped_share(self) -> float | None:
        """The part of the multiply-adds that are in convolutions with groups, the depthwise ones left out."""
        return share(self.grouped_macs, self.macs)

    @property
    def unfused_flop_per_byte(self) -> float | None:
        """Arithmetic intensity if every operator goes through memory."""
        return intensity(self.macs, self.traffic.unfused_bytes)

    @property
    def ideal_flop_per_byte(self) -> float | None:
        """Arithmetic intensity if nothing but weights, image and outputs goes through memory."""
        return intensity(self.macs, self.traffic.ideal_bytes)


def intensity(macs: int | None, moved_bytes: int | None) -> float | None:
    """FLOP a byte, a multiply-add being two FLOP."""
    return None if macs is None or not moved_bytes else 2 * macs / moved_bytes


def share(part: int | None, whole: int | None) -> float | None:
    """`part` / `whole`; None where there is no whole."""
    return None if part is None or not whole else part / whole
