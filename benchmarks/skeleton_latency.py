"""Does a skeleton take as long as the model it stands for?

    python benchmarks/skeleton_latency.py resnet50 --json out.json             # against ordinary random weights
    python benchmarks/skeleton_latency.py resnet50 --against export            # against a real export, made with torch
    python benchmarks/skeleton_latency.py resnet50 --against full.onnx         # against this export of it

Both run on ONNX Runtime's CPU provider with one thread, in blocks A B B A, so that a slow drift of the machine falls on
both alike. `A` is the materialised skeleton. Without --against, `B` is the same graph with normally distributed weights
of the same spread. Where a session's buffers happen to lie moves its latency by a few per cent, so every round opens
fresh sessions, in turn in another order. A second session of the skeleton runs along, blocks A B C C B A: the ratio
A / C is what two equal models differ by on this machine. The answer is the ratio of the medians; it should lie between
0.97 and 1.03.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime as ort

from backbench.models.catalog import names, recipe, skeleton_path
from backbench.models.onnx_input import onnx_for_size
from backbench.models.skeleton import SMALLEST_DROPPED, materialise

LOWEST, HIGHEST = 0.97, 1.03


def with_ordinary_weights(source: Path, destination: Path) -> None:
    """Copy a model and redraw its large weights from a normal distribution of the same mean and spread."""
    model = onnx.load(source)
    rng = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= SMALLEST_DROPPED:
            drawn = rng.normal(values.mean(), values.std(), values.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(drawn, tensor.name))
    onnx.save(model, destination)


def exported(name: str, height: int, width: int, folder: Path) -> Path:
    """The backbone exported with random weights."""
    from backbench.controller.export.process import export_with_torch
    from backbench.controller.export.request import ExportRequest

    return export_with_torch(ExportRequest(name, height, width), folder, lambda _: None).model


def session_of(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measured(
    session: ort.InferenceSession, feed: dict[str, np.ndarray], frames: int
) -> tuple[list[float], list[float]]:
    """The milliseconds of wall and of processor time that each of `frames` inferences took."""
    wall, processor = [], []
    for _ in range(frames):
        cpu_start, start = time.thread_time_ns(), time.perf_counter_ns()
        session.run(None, feed)
        wall.append((time.perf_counter_ns() - start) / 1e6)
        processor.append((time.thread_time_ns() - cpu_start) / 1e6)
    return wall, processor


def compared(paths: list[Path], shape: tuple[int, int, int, int], rounds: int, frames: int) -> list[list[list[float]]]:
    """For each path: the wall and processor milliseconds of `rounds` fresh sessions, two blocks of `frames` each."""
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    times: list[list[list[float]]] = [[[], []] for _ in paths]
    orders = list(itertools.permutations(range(len(paths))))
    for turn in range(rounds):
        order = orders[turn % len(orders)]
        sessions = {which: session_of(paths[which]) for which in order}
        feeds = {which: {session.get_inputs()[0].name: image} for which, session in sessions.items()}
        for which in order:
            measured(sessions[which], feeds[which], max(3, frames // 4))
        for which in (*order, *reversed(order)):
            for kept, block in zip(times[which], measured(sessions[which], feeds[which], frames), strict=True):
                kept.extend(block)
    return times


def summary(times: list[list[list[float]]]) -> dict[str, float]:
    """The medians of the skeleton, the other model and the skeleton's second session, and their ratios."""
    (skeleton, skeleton_cpu), (other, other_cpu), (again, _) = (
        [statistics.median(values) for values in kinds] for kinds in times
    )
    return {
        "skeleton_p50_ms": skeleton,
        "other_p50_ms": other,
        "ratio_p50": skeleton / other,
        "ratio_cpu_p50": skeleton_cpu / other_cpu,
        "ratio_null_p50": skeleton / again,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=names())
    parser.add_argument("--against", metavar="FILE", help="an ONNX file of the same backbone with weights, or 'export'")
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--rounds", type=int, default=12, help="fresh sessions a model")
    parser.add_argument("--frames", type=int, default=20, help="inferences a block")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    of = recipe(arguments.name)
    height, width = arguments.height or of.size[0], arguments.width or of.size[1]
    with tempfile.TemporaryDirectory() as folder:
        skeleton, other = Path(folder) / "skeleton.onnx", Path(folder) / "other.onnx"
        materialise(skeleton_path(of.name, (height, width)), skeleton, batch=1, height=height, width=width)
        pushed = {"skeleton_bytes": skeleton_path(of.name, (height, width)).stat().st_size}
        if arguments.against:
            full = (
                exported(of.name, height, width, Path(folder)) if arguments.against == "export" else arguments.against
            )
            onnx_for_size(Path(full), other, batch=1, height=height, width=width)
            pushed["export_bytes"] = Path(full).stat().st_size
        else:
            with_ordinary_weights(skeleton, other)
        paths = [skeleton, other, skeleton]
        numbers = summary(compared(paths, (1, 3, height, width), arguments.rounds, arguments.frames))
    passed = LOWEST <= numbers["ratio_p50"] <= HIGHEST
    result = {
        "schema": "backbench.skeleton_latency/1",
        "model": of.name,
        "size": [height, width],
        "against": "export" if arguments.against else "ordinary random weights",
        "frames_each": 2 * arguments.rounds * arguments.frames,
        **numbers,
        "pushed": pushed,
        "passed": passed,
        "onnxruntime": ort.__version__,
        "machine": platform.machine(),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"{of.name} {height}x{width}: skeleton {numbers['skeleton_p50_ms']:.2f} ms, {result['against']}"
        f" {numbers['other_p50_ms']:.2f} ms; ratio of p50 {numbers['ratio_p50']:.3f}"
        f" (processor time {numbers['ratio_cpu_p50']:.3f}, equal models {numbers['ratio_null_p50']:.3f}),"
        f" {'within' if passed else 'outside'} {LOWEST}-{HIGHEST}"
        f"; pushed {', '.join(f'{name} {count}' for name, count in pushed.items())}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
