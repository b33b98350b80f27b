"""What an export is asked for; it travels to the exporting process as one JSON document."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from backbench.domain.errors import InvalidArgument

RANDOM, PRETRAINED = "random", "pretrained"
DEFAULT_OPSET = 20
LOWEST_OPSET, HIGHEST_OPSET = 17, 23
DYNAMIC = ("batch", "size")
Reduced = Literal["fp16", "int8"]
"""What an fp32 model can be converted to."""
Precision = Literal["fp32", Reduced]
Target = Literal["cpu", "tensorrt"]
"""What an int8 model is laid out for."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """One backbone, by its timm name or `name.tag`, as one fp32 ONNX file.

    `weights` is "random" (drawn from `seed`), "pretrained" or the path of a checkpoint. `dynamic` names what stays
    open: "batch", "size". `features` gives the feature maps of every level instead of the logits. Size None is the
    backbone's own.
    """

    name: str
    height: int | None = None
    width: int | None = None
    batch: int = 1
    weights: str = RANDOM
    seed: int = 0
    features: bool = False
    dynamic: tuple[str, ...] = ()
    opset: int = DEFAULT_OPSET

    def __post_init__(self) -> None:
        if not LOWEST_OPSET <= self.opset <= HIGHEST_OPSET:
            raise InvalidArgument(f"--opset is {self.opset}; it must lie between {LOWEST_OPSET} and {HIGHEST_OPSET}")
        for what in self.dynamic:
            if what not in DYNAMIC:
                raise InvalidArgument(f'--dynamic "{what}" is not known; take {" or ".join(DYNAMIC)}')

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def check_weights(weights: str) -> None:
    """Raise InvalidArgument for what is neither a word that is known nor a file."""
    if weights not in (RANDOM, PRETRAINED) and not Path(weights).is_file():
        raise InvalidArgument(
            f"--weights {weights}: no such file; take {PRETRAINED}, {RANDOM} or the path of a checkpoint"
        )


def request_from_json(text: str) -> ExportRequest:
    """The request in one line of JSON."""
    values = json.loads(text)
    return ExportRequest(**{**values, "dynamic": tuple(values["dynamic"])})
