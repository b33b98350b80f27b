"""Whether a run's numbers may be believed, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbench.controller.analysis.percentiles import insufficient


def judge_validity(state: str, counts: Mapping[str, int], clock_range_ppm: int | None) -> dict[str, Any]:
    """`ok`, `unverified` or `invalid`, with reasons {code, detail}.

    A run that did not end as asked is invalid; one in which nothing could have shown throttling is unverified.
    `clock_range_ppm` is how far the delivered processor clocks moved, None when no clock was read.
    """
    reasons: list[dict[str, str]] = []
    status = "ok"
    if state != "done":
        status = "invalid"
        reasons.append({"code": "run_not_done", "detail": f"the run is {state}"})
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
