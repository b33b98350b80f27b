"""Whether a run's numbers may be believed, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbench.controller.analysis.percentiles import insufficient


def judge_validity(
    state: str,
    counts: Mapping[str, int],
    clock_range_ppm: int | None,
    *,
    outputs: Mapping[str, Any] | None = None,
    reference: bool = False,
) -> dict[str, Any]:
    """`ok`, `unverified` or `invalid`, with reasons {code, detail}.

    A run that did not end as asked is invalid, and so is one whose outputs are wrong, however fast it was; one in which
    nothing could have shown throttling is unverified. `clock_range_ppm` is how far the delivered processor clocks
    moved, None when no clock was read. `outputs` is the document's part of that name, `reference` whether a reference
    was named.
    """
    reasons: list[dict[str, str]] = []
    status = "ok"
    if state != "done":
        status = "invalid"
        reasons.append({"code": "run_not_done", "detail": f"the run is {state}"})
    for check in outputs["checks"] if outputs else ():
        if not check["passed"]:
            status = "invalid"
            reasons.append({"code": "output_mismatch", "detail": mismatch(check)})
    if reference and outputs is None and state == "done":
        detail = "the agent did not compare the outputs with the reference; update Backbench on the device"
        reasons.append({"code": "outputs_not_checked", "detail": detail})
    if counts["errored"]:
        reasons.append(
            {"code": "frames_errored", "detail": f"{counts['errored']} of {counts['offered']} frames failed"}
        )
    for name, need in insufficient(counts["completed"]).items():
        detail = f"{name} needs {need} frames, this run has {counts['completed']}"
        reasons.append({"code": "insufficient_frames", "detail": detail})
    witness = "no throttle counter was read"
    if clock_range_ppm is not None:
        witness += f"; the delivered clocks moved by {clock_range_ppm / 1e4:.1f} %"
    reasons.append({"code": "throttle_not_observed", "detail": witness})
    return {"status": "unverified" if status == "ok" else status, "reasons": reasons}


def mismatch(check: Mapping[str, Any]) -> str:
    """In words, how far an output that failed its check is from its reference."""
    name, error = check["name"], check["max_relative_error"]
    if not check["finite"]:
        return f"output {name} is missing, has another shape or holds numbers that are not finite"
    if error is None:
        return f"output {name} has no relative error, as its reference is 0 everywhere and it is not"
    return f"output {name} is off by {error:.2g} of the reference's largest number, more than {check['tolerance']:g}"
