"""An analysis as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbench.controller.analysis.graph.results import FeatureMap, Field, GraphAnalysis, Operator, OutputReach
from backbench.controller.analysis.graph.roofline import OperatorBound, Roofline

SCHEMA = "backbench.inspect/1"


def to_document(
    analysis: GraphAnalysis,
    *,
    model: Mapping[str, Any] | None = None,
    roofline: Roofline | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """The document `backbench.inspect/1`. `model` is what is known of the model beside its graph.

    Operators are in the graph's order. Sizes of outputs are in pixels of the input, (height, width).
    """
    bounds: tuple[OperatorBound | None, ...] = roofline.operators if roofline else (None,) * len(analysis.operators)
    return {
        "schema": SCHEMA,
        "model": None if model is None else dict(model),
        "graph": _graph(analysis),
        "outputs": [_output(output) for output in analysis.outputs],
        "roofline": None if roofline is None else _roofline(roofline, device),
        "operators": [_operator(each, bound) for each, bound in zip(analysis.operators, bounds, strict=True)],
    }


def _graph(analysis: GraphAnalysis) -> dict[str, Any]:
    return {
        "input_shape": list(analysis.input_shape),
        "parameters": analysis.parameters,
        "weight_bytes": analysis.weight_bytes,
        "precision": analysis.precision,
        "macs": analysis.macs,
        "depthwise_share": analysis.depthwise_share,
        "grouped_share": analysis.grouped_share,
        "activation_peak_bytes": analysis.activation_peak_bytes,
        "activation_peak_is": "a lower-bound estimate",
        "traffic_bytes": {"unfused": analysis.traffic.unfused_bytes, "ideal": analysis.traffic.ideal_bytes},
        "flop_per_byte": {"unfused": analysis.unfused_flop_per_byte, "ideal": analysis.ideal_flop_per_byte},
        "opset": analysis.opset,
        "domains": dict(analysis.domains),
        "operator_counts": dict(analysis.histogram),
    }


def _output(output: OutputReach) -> dict[str, Any]:
    return {
        "name": output.name,
        "shape": None if output.shape is None else list(output.shape),
        "pooled": output.pooled,
        "context": output.context,
        "map": None if output.map is None else _map(output.map),
        "local": None if output.local is None else _field(output.local),
    }


def _map(found: FeatureMap) -> dict[str, Any]:
    return {
        "tensor": found.tensor,
        "shape": list(found.shape),
        "layout": found.layout,
        "channels": found.channels,
        "stride_px": None if found.stride_px is None else list(found.stride_px),
        "receptive_field_px": None if found.field is None else list(found.field.receptive_px),
        "offset_px": None if found.field is None else list(found.field.offset_px),
    }


def _field(field: Field) -> dict[str, Any]:
    return {
        "stride_px": list(field.stride_px),
        "receptive_field_px": list(field.receptive_px),
        "offset_px": list(field.offset_px),
    }


def _operator(operator: Operator, bound: OperatorBound | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": operator.name,
        "type": operator.op_type,
        "output_shape": None if operator.output_shape is None else list(operator.output_shape),
        "macs": operator.macs,
        "group": operator.group,
        "input_bytes": operator.input_bytes,
        "weight_bytes": operator.weight_bytes,
        "output_bytes": operator.output_bytes,
        "flop_per_byte": operator.flop_per_byte,
    }
    if bound is not None:
        row |= {"lower_bound_ms": _ms(bound.lower_bound_s), "bound": bound.bound}
    return row


def _roofline(roofline: Roofline, device: str | None) -> dict[str, Any]:
    return {
        "device": device,
        "peak_flops_per_s": roofline.peak_flops_per_s,
        "peak_bytes_per_s": roofline.peak_bytes_per_s,
        "precision": roofline.precision,
        "ridge_flop_per_byte": roofline.ridge_flop_per_byte,
        "lower_bound_ms": {"unfused": _ms(roofline.unfused_s), "ideal": _ms(roofline.ideal_s)},
        "ideal_bound": roofline.ideal_bound,
        "compute_bound_macs": roofline.compute_bound_macs,
        "note": roofline.note,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
