from __future__ import annotations

import json
from collections.abc import Callable

import onnx
import pytest

from backbench.controller.analysis.graph import GraphAnalysis, analyse, roofline, to_document

F32 = onnx.TensorProto.FLOAT
Make = Callable[..., onnx.ModelProto]


@pytest.fixture
def analysis(make: Make) -> GraphAnalysis:
    """One convolution that computes much for its bytes, and one activation that moves bytes only."""
    nodes = [("Conv", "image w", "a", {"pads": [1, 1, 1, 1]}), ("Relu", "a", "y", {})]
    return analyse(make(nodes, image=(1, 64, 32, 32), weights={"w": ((64, 64, 3, 3), F32)}))


def test_an_operator_takes_at_least_its_computing_and_at_least_its_moving(analysis: GraphAnalysis) -> None:
    found = roofline(analysis, peak_flops_per_s=1e9, peak_bytes_per_s=1e8)
    computing, moving = found.operators
    macs, moved = analysis.operators[0].macs, analysis.operators[1].traffic_bytes
    assert macs is not None
    assert moved is not None
    assert (computing.lower_bound_s, computing.bound) == (2 * macs / 1e9, "compute")
    assert (moving.lower_bound_s, moving.bound) == (moved / 1e8, "memory")
    assert found.ridge_flop_per_byte == 10
    assert found.unfused_s == pytest.approx(2 * macs / 1e9 + moved / 1e8)
    assert (found.ideal_s, found.ideal_bound, found.compute_bound_macs) == (2 * macs / 1e9, "compute", macs)


def test_on_a_device_with_slow_memory_everything_is_bound_by_it(analysis: GraphAnalysis) -> None:
    found = roofline(analysis, peak_flops_per_s=1e12, peak_bytes_per_s=1e6)
    assert {each.bound for each in found.operators} == {"memory"}
    assert analysis.traffic.ideal_bytes is not None
    assert found.ideal_s == analysis.traffic.ideal_bytes / 1e6
    assert found.compute_bound_macs == 0


def test_fusing_never_takes_longer(analysis: GraphAnalysis) -> None:
    for bandwidth in (1e6, 1e9, 1e12):
        found = roofline(analysis, peak_flops_per_s=1e10, peak_bytes_per_s=bandwidth)
        assert found.ideal_s is not None
        assert found.unfused_s is not None
        assert found.ideal_s <= found.unfused_s


def test_rates_of_another_precision_are_said_to_be_so(analysis: GraphAnalysis) -> None:
    rates = {"peak_flops_per_s": 1e9, "peak_bytes_per_s": 1e8}
    assert roofline(analysis, **rates, precision="fp32").note is None
    note = roofline(analysis, **rates, precision="fp16").note
    assert note is not None
    assert "measured in fp16" in note


def test_what_is_unknown_has_no_bound(make: Make) -> None:
    model = make([("FusedThing", "image", "y", {"domain": "com.example"})])
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    found = roofline(analyse(model), peak_flops_per_s=1e9, peak_bytes_per_s=1e8)
    assert (found.operators[0].lower_bound_s, found.unfused_s, found.ideal_s) == (None, None, None)


def test_the_document_is_json_with_a_row_an_operator_and_none_where_unknown(analysis: GraphAnalysis) -> None:
    plain = to_document(analysis)
    assert (plain["schema"], plain["roofline"], plain["model"]) == ("backbench.inspect/1", None, None)
    assert "bound" not in plain["operators"][0]
    found = roofline(analysis, peak_flops_per_s=1e9, peak_bytes_per_s=1e8)
    document = json.loads(json.dumps(to_document(analysis, roofline=found, device="pi5"), allow_nan=False))
    assert [row["type"] for row in document["operators"]] == ["Conv", "Relu"]
    assert document["operators"][1]["macs"] is None
    assert document["operators"][1]["bound"] == "memory"
    assert document["roofline"]["device"] == "pi5"
    assert document["outputs"][0]["map"]["receptive_field_px"] == [3, 3]
