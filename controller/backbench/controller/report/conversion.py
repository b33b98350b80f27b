"""What a conversion to fp16 or int8 did to a model, in rows for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

_NONE = "—"


def conversion_rows(precision: Mapping[str, Any]) -> Iterator[tuple[str, str | Text]]:
    """Heading and words: the scheme, the calibration, each output's error against fp32, what stayed in float."""
    if not precision:
        return
    yield "precision", f"{precision['precision']} for {precision['target']}: {precision['scheme']}"
    if precision["calibration_image_count"] is not None:
        yield "calibrated", f"on {precision['calibration_image_count']} of {precision['images']}"
    for output in precision["outputs"]:
        yield "against fp32", f"{output['name']}: {_fidelity(output, precision)}"
    converted, total = precision["converted_mac_operator_count"], precision["mac_operator_count"]
    left = ", ".join(f"{count} {name}" for name, count in precision["float_operators"].items())
    stayed = f"; in float: {left}" if left else ""
    yield "operators", f"{converted} of {total} convolutions and matrix products are {precision['precision']}{stayed}"
    if precision["note"]:
        yield "note", Text(precision["note"], style="yellow")


def _fidelity(output: Mapping[str, Any], precision: Mapping[str, Any]) -> str:
    top1, images = output.get("top1_agreement"), precision["held_out_image_count"]
    kind = "held-out" if precision["held_out_independent"] else "calibration"
    parts = [
        f"SQNR {_number(output['sqnr_db'], '.1f')} dB",
        f"cosine {_number(output['cosine'], '.4f')}",
        *([f"top-1 agrees {top1 * 100:.0f} %"] if top1 is not None else []),
    ]
    return f"{', '.join(parts)} on {images} {kind} image{'' if images == 1 else 's'}"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)
