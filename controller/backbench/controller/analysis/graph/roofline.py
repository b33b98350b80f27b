"""The least time that a graph can take on a device whose peak rates are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbench.controller.analysis.graph.results import GraphAnalysis

Bound = Literal["compute", "memory"]


@dataclass(frozen=True, slots=True)
class OperatorBound:
    """The least time of one operator, and what sets it; None where its sizes are unknown."""

    name: str
    lower_bound_s: float | None
    bound: Bound | None


@dataclass(frozen=True, slots=True)
class Roofline:
    """Lower bounds of a graph's time on one device.

    `unfused_s` is the sum over operators that each go through memory; `ideal_s` is the bound of the whole with weights,
    image and outputs moved once. No runtime is faster than `ideal_s`; one that fuses can be faster than `unfused_s`,
    and so can one whose caches hold what is passed on. Work that is not counted takes no time here.
    """

    peak_flops_per_s: float
    peak_bytes_per_s: float
    precision: str | None
    ridge_flop_per_byte: float
    unfused_s: float | None
    ideal_s: float | None
    ideal_bound: Bound | None
    compute_bound_macs: int | None
    operators: tuple[OperatorBound, ...]
    note: str | None


def roofline(
    analysis: GraphAnalysis, *, peak_flops_per_s: float, peak_bytes_per_s: float, precision: str | None = None
) -> Roofline:
    """The lower bounds of `analysis` at two peak rates; `precision` is the one that they were measured in."""

    def least(macs: int | None, moved: int | None, counted: bool) -> tuple[float | None, Bound | None]:
        if moved is None or (counted and macs is None):
            return None, None
        compute_s, memory_s = 2 * (macs or 0) / peak_flops_per_s, moved / peak_bytes_per_s
        return max(compute_s, memory_s), "compute" if compute_s > memory_s else "memory"

    bounds = tuple(
        OperatorBound(each.name, *least(each.macs, each.traffic_bytes, each.counted)) for each in analysis.operators
    )
    times = [each.lower_bound_s for each in bounds]
    known = [time for time in times if time is not None]
    ideal_s, ideal_bound = least(analysis.macs, analysis.traffic.ideal_bytes, counted=True)
    pairs = zip(analysis.operators, bounds, strict=True)
    return Roofline(
        peak_flops_per_s=peak_flops_per_s,
        peak_bytes_per_s=peak_bytes_per_s,
        precision=precision,
        ridge_flop_per_byte=peak_flops_per_s / peak_bytes_per_s,
        unfused_s=sum(known) if len(known) == len(times) else None,
        ideal_s=ideal_s,
        ideal_bound=ideal_bound,
        compute_bound_macs=None
        if analysis.macs is None
        else sum(each.macs or 0 for each, bound in pairs if bound.bound == "compute"),
        operators=bounds,
        note=_note(analysis.precision, precision),
    )


def _note(of_graph: str, of_rates: str | None) -> str | None:
    if of_rates is None or of_rates == of_graph:
        return None
    return (
        f"the rates were measured in {of_rates}, the graph is {of_graph}: bounds on compute may be too high or too low"
    )
