"""Every benchmark in one run, printed as ratios; `--json FILE` keeps them with a description of the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import footprint
import latency
import overhead
import survival
import telemetry

_WIDTH = 66
SKELETONS = (
    "mobilenetv3_large_100", "mobilenetv4_conv_small", "resnet50", "efficientnet_b0", "vit_tiny_patch16_224",
    "convnext_tiny",
)  # fmt: skip
"""Backbones of several kinds whose skeletons are held against exports."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    results: dict[str, object] = {"machine": _machine()}
    print(f"machine: {results['machine']}\n")
    results["latency"] = _latency()
    results["overhead"] = _overhead()
    results["survival"] = _survival()
    results["telemetry"] = _telemetry()
    results["footprint"] = _footprint()
    results["skeleton"] = _skeleton()
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {options.json}")


def _latency() -> object:
    rows = latency.run()
    for row in rows:
        _ratio_line(f"reported p50 / bare loop, {row['model']}, {row['inputs']}", row["reported_over_bare_p50"])
        line("    p99", row["reported_over_bare_p99"]["value"], "information")
        if "reported_over_loadgen_p50" in row:
            _ratio_line("    p50 / MLPerf LoadGen SingleStream", row["reported_over_loadgen_p50"])
            line("    p99 / MLPerf LoadGen SingleStream", row["reported_over_loadgen_p99"]["value"], "information")
    return rows


def _ratio_line(name: str, ratio: dict[str, float]) -> None:
    line(name, ratio["value"], "0.99-1.01")
    line("        95 % interval from", ratio["low"], "information")
    line("        to", ratio["high"], "information")


def _overhead() -> object:
    costs = overhead.loop_cost_us()
    line("cost of the worker's loop a frame, µs", costs["loop_us_per_frame"], "< 5")
    return costs


def _survival() -> object:
    results = survival.run()
    for words, value, target in survival.rows(results):
        line(words, value, target)
    return results


def _telemetry() -> object:
    results = telemetry.run()
    for row in results["samples"]:
        line(f"one sample of every source, {row['board']}, µs", row["sample_us"], "information")
        line("    at their rates, thousandths of a core", row["core_permille"], "< 10")
    _ratio_line("p50 with telemetry / without", results["latency"]["on_over_off_p50"])
    line("    p99", results["latency"]["on_over_off_p99"]["value"], "information")
    return results


def _footprint() -> object:
    result = footprint.run()
    line("idle agent, resident MB", result["idle_resident_mb"], "< 80")
    line("agent listens after, s", result["listening_after_s"], "< 1.5")
    line("agent has described the device after, s", result["device_described_after_s"], "information")
    return result


def _skeleton() -> object:
    rows = []
    script = Path(__file__).with_name("skeleton_latency.py")
    with tempfile.TemporaryDirectory() as folder:
        for name in SKELETONS:
            destination = Path(folder) / f"{name}.json"
            command = [sys.executable, str(script), name, "--against", "export", "--json", str(destination)]
            subprocess.run(command, check=False, stdout=sys.stderr)
            rows.append(json.loads(destination.read_text()))
            line(f"skeleton / export p50, {name}", rows[-1]["ratio_p50"], "0.97-1.03")
            line("    two equal models, for comparison", rows[-1]["ratio_null_p50"], "information")
            pushed = rows[-1]["pushed"]
            line(
                "    bytes pushed, skeleton / export", pushed["skeleton_bytes"] / pushed["export_bytes"], "information"
            )
    return rows


def line(name: str, value: object, target: str) -> None:
    """One result with what it should be."""
    print(f"{name:<{_WIDTH}} {value:>9.3f}   {target}", flush=True)


def _machine() -> dict[str, object]:
    model = next((text for text in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in text), ":")
    return {
        "processor": model.partition(":")[2].strip() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    main()
