"""Runs beside each other: their ratios, and whether a difference is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.comparison import compare
from backbench.controller.analysis.effect import ratio_interval, verdict
from backbench.controller.analysis.latency import completed, of_launches, sequences, spans_ns, timed
from backbench.controller.store import Store


def compare_runs(store: Store, documents: Sequence[Mapping[str, Any]], across: bool = False) -> dict[str, Any]:
    """The rows and differences of `analysis.comparison`, and `effects`: one a run but the first.

    An effect is {run, ratio, low, high, noise_floor, verdict}: the ratio of the pipeline's median latency to the first
    run's with its 95 % interval by a bootstrap over launches and frames, and "faster", "slower", "equivalent" or
    "inconclusive" beside the larger of 1 % and the devices' noise floor. The verdict is None where the environments
    differ, unless `across`, and always where a simulated device stands beside a real one; everything is None where a
    run has no frames, or is of an older version.
    """
    result = compare(documents)
    judged = result["comparable"] or (across and not result["simulation_differs"])
    frames = [_launches(store, document) for document in documents]
    effects = [_effect(documents, frames, place, judged) for place in range(1, len(documents))]
    return {**result, "effects": effects}


def _effect(
    documents: Sequence[Mapping[str, Any]], frames: Sequence[list[NDArray[np.int64]]], place: int, judged: bool
) -> dict[str, Any]:
    floors = [(documents[each].get("overhead") or {}).get("noise_floor") for each in (0, place)]
    floor = max((each for each in floors if each is not None), default=None)
    row: dict[str, Any] = {
        "run": documents[place]["run_id"],
        "ratio": None,
        "low": None,
        "high": None,
        "noise_floor": floor,
        "verdict": None,
    }
    first, other = frames[0], frames[place]
    if first and other:
        row["ratio"], row["low"], row["high"] = ratio_interval(first, other)
        row["verdict"] = verdict(row["low"], row["high"], floor or 0.0) if judged else None
    return row


def _launches(store: Store, document: Mapping[str, Any]) -> list[NDArray[np.int64]]:
    """The pipeline's latency of each launch that its document's latencies are of, without transients."""
    cut = {(row["launch"], row["stream"]): row["cut_frames"] for row in document.get("steady", ())}
    if not cut:
        return []
    frames = store.frame_columns(document["run_id"])
    keys = sequences(frames, timed(frames) & completed(frames))
    spans = zip(keys, spans_ns(frames, cut)[document["pipeline"]] or (), strict=False)
    return list(of_launches({key: span for key, span in spans if key in cut}).values())
