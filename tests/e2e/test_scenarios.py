"""Every way in which frames arrive, through the real commands: a real agent over gRPC, real workers, a real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet
import pytest
from onnx import TensorProto, helper, numpy_helper

SIDE = 16


@pytest.fixture(scope="module")
def lab(shared_agent: Any, shared_backbench: Any) -> Any:
    """The command line of a store that knows the agent as "lab"."""
    shared_backbench("device", "add", "lab", shared_agent.address)
    return shared_backbench


@pytest.fixture(scope="module")
def model(lab: Any) -> str:
    return saved(lab.cwd / "tiny.onnx", [], "image")


def saved(path: Path, before: list[onnx.NodeProto], feed: str, **tensors: Any) -> str:
    """One convolution and one mean, after the nodes that make `feed` of the image."""
    weights = np.random.Generator(np.random.PCG64(0)).standard_normal((4, 3, 3, 3), np.float32)
    tensors["weights"] = weights
    graph = helper.make_graph(
        [
            *before,
            helper.make_node("Conv", [feed, "weights"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["features"], ["output"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 4, 1, 1])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path.name


def profiled(command: Any, model: str, *arguments: str, status: int | None = 0) -> dict[str, Any]:
    done = command("profile", model, "--device", "lab", "--no-memory-pass", *arguments, "--json", status=status)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


CASES: dict[str, tuple[str, ...]] = {
    "closed-loop": ("--frames", "60"),
    "paced": ("--fps", "200", "--frames", "60", "--deadline", "1s"),
    "poisson": ("--fps", "300", "--frames", "60", "--seed", "7"),
    "trace": ("--trace", "camera.txt"),
    "offline": ("--frames", "60"),
    "streams": ("--streams", "2", "--fps", "100", "--frames", "60", "--budget", "max<=10s"),
    "soak": ("--duration", "2s", "--telemetry-rate", "10"),
    "idle-fire": ("--frames", "10", "--idle-gap", "10ms"),
    "sweep": ("--fps", "50", "--frames", "30", "--miss-ratio", "100%"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_scenario_runs_and_loses_no_frame(name: str, lab: Any, model: str) -> None:
    (lab.cwd / "camera.txt").write_text("# three bursts\n" + "".join(f"{k // 20 * 10**8}\n" for k in range(60)))
    document = profiled(lab, model, "--scenario", name, *CASES[name])
    assert document["state"] == document["outcome"] == "done"
    assert document["scenario"]["name"] == document["contract"]["scenario"]["name"] == name
    frames = document["frames"]
    assert frames["offered"] == frames["completed"] + frames["dropped"] + frames["errored"]
    offered = {"streams": 180, "idle-fire": 10, "sweep": 30, "soak": frames["offered"]}.get(name, 60)
    assert (frames["offered"], frames["errored"]) == (offered, 0)
    assert "frames_unaccounted" not in [reason["code"] for reason in document["validity"]["reasons"]]
    rows = pyarrow.parquet.read_table(document["files"]["frames"]).to_pylist()
    assert len({(row["launch"], row["stream"], row["index"]) for row in rows}) == len(rows)
    assert document["latency_ms"]["service"]["n"] <= frames["completed"]
    assert document["overhead"]["loop_overhead_p50_us"] > 0
    waits = name in ("paced", "poisson", "trace", "streams", "sweep")
    assert (document["load"] is not None) == waits
    assert document["pipeline"] == ("e2e" if waits else "service")
    assert [part for part in ("soak", "streams", "sweep") if document[part] is not None] == [name] * (name in TOLD)
    if name in TOLD:
        TOLD[name](document)


def streams_tell_how_many_engines_fit(document: dict[str, Any]) -> None:
    assert [row["streams"] for row in document["streams"]["rows"]] == [1, 2]
    assert document["streams"]["most_fitting"] == 2
    assert all(row["memory_mb"] > 10 for row in document["streams"]["rows"])


def a_sweep_tells_the_highest_rate(document: dict[str, Any]) -> None:
    assert document["sweep"]["highest_fps"] == 50.0
    assert [row["rate_fps"] for row in document["sweep"]["rows"]] == [50.0]


def a_soak_tells_its_minutes_and_slopes(document: dict[str, Any]) -> None:
    (launch,) = document["soak"]["launches"]
    assert sum(row["n"] for row in launch["minutes"]) == document["frames"]["completed"] > 100
    assert launch["memory_growth"] is not None


TOLD = {
    "streams": streams_tell_how_many_engines_fit,
    "sweep": a_sweep_tells_the_highest_rate,
    "soak": a_soak_tells_its_minutes_and_slopes,
}


def test_a_camera_too_fast_for_the_model_drops_frames_and_the_budget_says_so(lab: Any) -> None:
    arguments = ("--scenario", "paced", "--fps", "1000", "--frames", "300", "--size", "224", "--budget", "drops<=0.1%")
    document = profiled(lab, "mobilenetv3_small_100", *arguments, status=1)
    load, frames = document["load"], document["frames"]
    assert frames["dropped"] == load["dropped"]["superseded"] > 0
    assert load["drop_ratio"]["low"] < load["drop_ratio"]["value"] < load["drop_ratio"]["high"]
    assert load["miss_ratio"]["value"] >= load["drop_ratio"]["value"]
    assert load["longest_drop_run"] >= 1
    assert document["budgets"][0]["verdict"] == "reject"


def test_launches_of_several_models_take_turns(lab: Any, model: str) -> None:
    (lab.cwd / "other.onnx").write_bytes((lab.cwd / model).read_bytes())
    arguments = ("--device", "lab", "--no-memory-pass", "--frames", "30", "--launches", "2", "--json")
    done = lab("profile", model, "other.onnx", *arguments)
    documents = json.loads(done.stdout)["runs"]
    begun = []
    for document in documents:
        assert document["launches"]["count"] == 2
        rows = pyarrow.parquet.read_table(document["files"]["frames"]).to_pylist()
        begun += [(min(r["due_ns"] for r in rows if r["launch"] == k), document["model"]["name"]) for k in range(2)]
    first, second, third, fourth = (name for _, name in sorted(begun))
    assert (first, second) == (fourth, third) in (("tiny", "other"), ("other", "tiny"))


def test_a_frame_that_fails_in_the_middle_is_counted_and_the_run_goes_on(lab: Any) -> None:
    inputs = [
        np.random.Generator(np.random.PCG64([0, place])).standard_normal((1, 3, SIDE, SIDE), np.float32)
        for place in range(8)
    ]
    largest = sorted(float(values.max()) for values in inputs[1:])
    assert max(float(inputs[0].max()), largest[-2]) < largest[-1]
    limit = (max(float(inputs[0].max()), largest[-2]) + largest[-1]) / 2
    fails = [
        helper.make_node("ReduceMax", ["image"], ["highest"], keepdims=0),
        helper.make_node("Greater", ["highest", "limit"], ["too_high"]),
        helper.make_node("Cast", ["too_high"], ["row"], to=TensorProto.INT64),
        helper.make_node("Gather", ["one_row", "row"], ["zero"]),
        helper.make_node("Add", ["image", "zero"], ["fed"]),
    ]
    picky = saved(lab.cwd / "picky.onnx", fails, "fed", limit=np.float32(limit), one_row=np.zeros(1, np.float32))
    document = profiled(lab, picky, "--frames", "80", "--warmup", "8")
    assert document["state"] == "done"
    assert document["frames"] == {"offered": 80, "completed": 70, "dropped": 0, "errored": 10}
    assert any(reason["code"] == "frames_errored" for reason in document["validity"]["reasons"])


def test_memory_that_runs_out_is_a_result_with_its_phase(lab: Any) -> None:
    arguments = ("profile", "resnet50", "--device", "lab", "--frames", "5", "--memory-limit", "150MB")
    done = lab(*arguments, "--json", status=1)
    document = json.loads(done.stdout)
    assert document["outcome"] == "out_of_memory"
    assert document["failure"]["message"].startswith("out of memory in phase ")
    assert "--memory-limit" in document["failure"]["message"]
    assert document["memory_limit_mb"] == 150


WRONG = {
    "--scenario paced --fps 0": "--fps",
    "--launches 0": "--launches",
    "--scenario trace --trace back.txt": "line 2",
    "--budget p99<=30": "unit",
    "--memory-limit 1MB": "memory",
    "--inputs mixed": "broken.jpg",
}
"""One of each kind; the others are refused by the same code, which has tests of its own."""


def test_wrong_options_are_one_line_each_and_make_no_run(lab: Any, model: str, photos: Path) -> None:
    (lab.cwd / "back.txt").write_text("100\n50\n")
    mixed = lab.cwd / "mixed"
    mixed.mkdir()
    photo = sorted(photos.glob("*.jpg"))[0]
    (mixed / "a.jpg").write_bytes(photo.read_bytes())
    (mixed / "broken.jpg").write_bytes(photo.read_bytes()[:500])
    (mixed / "z.jpg").write_bytes(photo.read_bytes())
    before = lab("run", "list", "--json").stdout
    for line, words in WRONG.items():
        done = lab("profile", model, "--device", "lab", *line.split(), "--json", status=2)
        assert done.stdout == "", line
        (said,) = done.stderr.splitlines()
        assert said.startswith("backbench: error: ") and words in said, (line, said)
    assert lab("run", "list", "--json").stdout == before
