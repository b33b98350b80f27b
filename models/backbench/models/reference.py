"""Reference outputs: a few frames and what a model gave for them, so that an engine elsewhere can be checked.

The file is an uncompressed `.npz`, the same bytes for the same content: `meta` (JSON text as bytes, schema
`backbench.reference/1`), `frames` (uint8, k x height x width x 3, RGB, cropped and not yet normalised), and for the
i-th output `output_i` (float32, k x n): every `step`-th number of a frame's output, so that a feature map costs kB.

It is read on the device, in the process that measures: numpy and the standard library only.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from backbench.domain.errors import InvalidArgument, InvalidModel
from backbench.domain.preprocess import Preprocess
from backbench.models.whole_file import written_whole

SCHEMA = "backbench.reference/1"
MAX_BYTES = 256_000_000
"""The largest file that is written or read."""
MAX_FRAMES = 64
MAX_OUTPUTS = 64
MAX_SIDE = 8192
NUMBERS_PER_FRAME = 16384
"""About how many numbers of each output are kept for a frame."""

# Largest difference over largest number, of one frame. fp32: another runtime adds up in another order, which a deep
# network amplifies to 2e-3, and a GPU may round products to TF32. fp16: eleven bits instead of 24; bf16: eight. int8: a
# number on the edge between two steps falls either way, and each layer makes new edges; a wrong engine is off by 1 and
# more.
TOLERANCES: Mapping[str, float] = {"fp32": 5e-3, "fp16": 5e-2, "bf16": 0.2, "int8": 0.3}

# What `zipfile`, `numpy` and `json` raise for bytes that are not theirs, and the checks below.
_DAMAGE = (
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class ReferenceOutput:
    """One output: its shape for one frame (no batch), and `values`, k x n, every `step`-th number of each frame's."""

    name: str
    shape: tuple[int, ...]
    step: int
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OutputError:
    """How far an output is from its reference, in the worst frame; None where that is no number.

    `finite` is False where the output is missing, has another shape, or holds a NaN or an infinite number.
    `max_relative_error` is the largest difference over the reference's largest number.
    """

    name: str
    max_relative_error: float | None
    cosine: float | None
    finite: bool

    def within(self, tolerance: float) -> bool:
        """Whether the output counts as right."""
        return self.finite and self.max_relative_error is not None and self.max_relative_error <= tolerance


@dataclass(frozen=True, slots=True)
class Reference:
    """Frames, and what a model gave for them. `made_by` says what ran the model, `precision` how it was stored."""

    frames: NDArray[np.uint8]
    outputs: tuple[ReferenceOutput, ...]
    tolerance: float
    made_by: str
    precision: str

    @property
    def frame_count(self) -> int:
        """How many frames there are."""
        return int(self.frames.shape[0])

    @property
    def height(self) -> int:
        """The frames' height in pixels."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """The frames' width in pixels."""
        return int(self.frames.shape[2])

    def normalised(self, preprocess: Preprocess) -> NDArray[np.float32]:
        """The frames as a model's input, k x 3 x height x width, to the bit as `write_input` makes them."""
        from backbench.models.preprocessing import normalised_frames

        return normalised_frames(self.frames, preprocess)


def output_errors(reference: Reference, produced: Mapping[str, NDArray[Any]]) -> tuple[OutputError, ...]:
    """For each of the reference's outputs, in its order, how far `produced` is from it.

    `produced` has by output name what an engine gave for all frames, stacked: k x the output's shape.
    """
    return tuple(_output_error(output, produced.get(output.name)) for output in reference.outputs)


def write_reference(
    path: Path,
    frames: NDArray[np.uint8],
    outputs: Mapping[str, NDArray[Any]],
    *,
    tolerance: float,
    made_by: str,
    precision: str,
) -> None:
    """Write what a model gave for `frames` (k x height x width x 3, RGB); the file appears whole or not at all.

    `outputs` has by output name the numbers of all frames, stacked. Raises InvalidModel where one is not finite, since
    nothing can be compared with it, and InvalidArgument where the file would be larger than the limit.
    """
    count = frames.shape[0]
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not 1 <= count <= MAX_FRAMES:
        raise ValueError(f"frames are uint8, 1 to {MAX_FRAMES} x height x width x 3, not {frames.dtype} {frames.shape}")
    if not outputs or any(values.shape[:1] != (count,) for values in outputs.values()):
        raise ValueError("every output has one entry for each frame")
    arrays: dict[str, Any] = {}
    entries = []
    for index, (name, values) in enumerate(outputs.items()):
        if not np.isfinite(values).all():
            raise InvalidModel(f"the output '{name}' holds numbers that are not finite; check the model's weights")
        step = max(math.ceil(math.prod(values.shape[1:]) / NUMBERS_PER_FRAME), 1)
        arrays[f"output_{index}"] = _every(values, step).astype("<f4")
        entries.append({"name": name, "shape": list(values.shape[1:]), "step": step})
    meta = {
        "schema": SCHEMA,
        "size": list(frames.shape[1:3]),
        "frame_count": count,
        "outputs": entries,
        "tolerance": tolerance,
        "made_by": made_by,
        "precision": precision,
    }
    text = np.frombuffer(json.dumps(meta, separators=(",", ":")).encode(), np.uint8)
    arrays = {"meta": text, "frames": np.ascontiguousarray(frames), **arrays}
    size = sum(values.nbytes for values in arrays.values())
    if size > MAX_BYTES * 0.99:
        raise InvalidArgument(
            f"{path.name}: {count} frames of {frames.shape[1]}x{frames.shape[2]} take {size / 1e6:.0f} MB; the limit is"
            f" {MAX_BYTES / 1e6:.0f} MB, so take fewer frames"
        )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with written_whole(path) as file:
        file.write(buffer.getbuffer())


def read_reference(path: Path) -> Reference:
    """The reference outputs in `path`; raises InvalidModel for a file that is damaged, or not what it claims to be.

    Nothing is unpacked or allocated before its declared size is known to be within the limits.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(_bounded(file)) as archive:
            return _reference(_arrays(archive))
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except _DAMAGE as error:
        cause = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InvalidModel(f"{path}: no usable reference outputs ({cause}); export the model again") from error


def _output_error(output: ReferenceOutput, produced: NDArray[Any] | None) -> OutputError:
    count = output.values.shape[0]
    if produced is None or produced.shape != (count, *output.shape) or not np.isfinite(produced).all():
        return OutputError(output.name, None, None, finite=False)
    errors: list[float | None] = []
    cosines: list[float | None] = []
    for got, want in zip(_every(produced, output.step).astype(np.float64), output.values, strict=True):
        wanted = want.astype(np.float64)
        difference, largest = float(np.abs(got - wanted).max()), float(np.abs(wanted).max())
        errors.append(difference / largest if largest else (None if difference else 0.0))
        norms = float(np.linalg.norm(got)) * float(np.linalg.norm(wanted))
        cosines.append(min(1.0, float(got @ wanted) / norms) if norms else None)
    return OutputError(output.name, _worst(errors, max), _worst(cosines, min), finite=True)


def _worst(numbers: list[float | None], worst: Any) -> float | None:
    known = [number for number in numbers if number is not None]
    return float(worst(known)) if len(known) == len(numbers) else None


def _every(values: NDArray[Any], step: int) -> NDArray[Any]:
    return values.reshape(values.shape[0], -1)[:, ::step]


def _bounded(file: BinaryIO) -> BinaryIO:
    if os.fstat(file.fileno()).st_size > MAX_BYTES:
        raise ValueError(f"the file is larger than {MAX_BYTES / 1e6:.0f} MB")
    return file


def _arrays(archive: zipfile.ZipFile) -> dict[str, NDArray[Any]]:
    entries = archive.infolist()
    if len(entries) > MAX_OUTPUTS + 2 or len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("too many parts")
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise ValueError(f"it unpacks to more than {MAX_BYTES / 1e6:.0f} MB")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise ValueError("a part is compressed")
    return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("an array has another format")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        if by_columns or dtype not in (np.dtype("u1"), np.dtype("<f4")) or min(shape, default=1) < 1:
            raise ValueError(f"an array is {dtype} {shape}")
        data = file.read()
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of {dtype} {shape} has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _reference(arrays: dict[str, NDArray[Any]]) -> Reference:
    meta = json.loads(arrays["meta"].tobytes())
    if meta["schema"] != SCHEMA:
        raise ValueError(f"schema {meta['schema']} is not {SCHEMA}")
    count, (height, width) = meta["frame_count"], meta["size"]
    sides_known = type(height) is int and type(width) is int and 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE
    if not sides_known or type(count) is not int or not 1 <= count <= MAX_FRAMES:
        raise ValueError("the size or the number of frames is out of range")
    frames = arrays["frames"]
    if frames.dtype != np.uint8 or frames.shape != (count, height, width, 3):
        raise ValueError(f"the frames are {frames.dtype} {frames.shape}")
    tolerance = float(meta["tolerance"])
    if not 0 < tolerance < math.inf:
        raise ValueError("the tolerance is out of range")
    outputs = tuple(_output(entry, arrays[f"output_{index}"], count) for index, entry in enumerate(meta["outputs"]))
    if not outputs or len(arrays) != len(outputs) + 2 or len({output.name for output in outputs}) != len(outputs):
        raise ValueError("outputs and their descriptions differ")
    return Reference(frames, outputs, tolerance, str(meta["made_by"]), str(meta["precision"]))


def _output(entry: Mapping[str, Any], values: NDArray[Any], count: int) -> ReferenceOutput:
    name, shape, step = entry["name"], tuple(entry["shape"]), entry["step"]
    if type(name) is not str or any(type(side) is not int or side < 1 for side in (*shape, step)):
        raise ValueError("an output's description is out of range")
    kept = -(-math.prod(shape) // step)
    if values.dtype != np.float32 or values.shape != (count, kept) or not np.isfinite(values).all():
        raise ValueError(f"the numbers of '{name}' do not match their description")
    return ReferenceOutput(name, shape, step, values)
