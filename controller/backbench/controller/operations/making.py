"""Models made ready to be pushed: exported with torch, converted, given reference outputs. Kept for the next time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backbench.controller.export.conversion_worker import ConversionJob
from backbench.controller.export.exporter import Conversion, convert_file, export
from backbench.controller.export.manifest import (
    SideFiles,
    file_sha256,
    manifest_beside,
    read_manifest,
    reference_beside,
)
from backbench.controller.export.process import Note, convert_in_child
from backbench.controller.export.request import PRETRAINED, RANDOM, ExportRequest
from backbench.controller.export.scratch import scratch_folder
from backbench.controller.operations.models import ModelFile, Size
from backbench.controller.store.leftovers import remove_abandoned
from backbench.domain.errors import InvalidArgument
from backbench.models.onnx_file import read_model
from backbench.models.onnx_input import inspect_input
from backbench.models.recipe import Recipe
from backbench.models.skeleton import skeleton_from_onnx
from backbench.models.whole_file import written_whole

_FORMAT = "1"
"""Raise it when the same request would be made differently, so that older files are not taken for new ones."""
_COMPLETE = ".complete"
_PART = ".part-"
_LIBRARIES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class ModelOrder:
    """A backbone that torch has to export first: its timm name, and which weights."""

    name: str
    weights: str
    recipe: Recipe | None = None

    def size(self, asked: Size | None) -> Size | None:
        """The input size of a run; None where only timm knows it. Raises ShapeMismatch."""
        if self.recipe is None:
            return asked
        size = asked or self.recipe.size
        self.recipe.check_size(*size)
        return size

    def check_batch(self, batch: int) -> None:
        """Every batch can be exported."""

    @property
    def preprocess_assumed(self) -> bool:
        """timm states how an image becomes its input."""
        return False


class ModelMaker:
    """Makes models in `root`, one folder a request; what is there already is not made again.

    At most `limit_bytes` are kept, and what this maker gave; the longest unused go first.
    """

    def __init__(self, root: Path, note: Note, limit_bytes: int = 8 << 30) -> None:
        self._root = root
        self._note = note
        self._limit_bytes = limit_bytes
        self._given: set[Path] = set()

    def ordered(
        self, order: ModelOrder, size: Size | None, batch: int, opset: int, conversion: Conversion
    ) -> ModelFile:
        """The exported backbone. Raises what `exporter.export` does."""
        height, width = size or (None, None)
        request = ExportRequest(order.name, height, width, batch=batch, weights=order.weights, opset=opset)
        key = {"export": json.loads(request.to_json()), **_described(conversion), "file": _digest_of(order.weights)}
        path = self._made(key, lambda path: export(request, conversion, path, self._note))
        manifest = manifest_beside(path)
        reference = reference_beside(path, manifest)
        return ModelFile(order.name, path, inspect_input(path), order.recipe, "export", reference, manifest)

    def converted(self, model: ModelFile, size: Size, batch: int, conversion: Conversion) -> ModelFile:
        """A skeleton or an fp32 file in another precision; a skeleton stays one.

        Raises InvalidArgument for a model that is not fp32, and what `exporter.convert_file` does.
        """
        if model.precision not in ("fp32", None):
            raise InvalidArgument(
                f"{model.path} is {model.precision} already; leave --precision away, or give the fp32 model"
            )

        def make(path: Path) -> None:
            convert_file(model.path, batch, *size, conversion, path, self._note)
            if model.contract.skeleton:
                small = skeleton_from_onnx(read_model(path))
                with written_whole(path.with_suffix(".skeleton.onnx")) as file:
                    file.write(small.SerializeToString(deterministic=True))

        key = {"convert": _digests_of(model), "size": size, "batch": batch, **_described(conversion)}
        path = self._made(key, make)
        manifest = read_manifest(SideFiles(path).manifest)
        if not model.contract.skeleton:
            reference = reference_beside(path, manifest)
            return replace(model, path=path, contract=inspect_input(path), reference=reference, manifest=manifest)
        small = path.with_suffix(".skeleton.onnx")
        path.unlink(missing_ok=True)  # its weights were random; the skeleton stands for it from now on
        return self.with_reference(replace(model, path=small, contract=inspect_input(small), manifest=manifest), size)

    def with_reference(self, model: ModelFile, size: Size) -> ModelFile:
        """The model with its outputs at one size, where ONNX Runtime is here to make them.

        A skeleton's outputs are those of the model that it stands for.
        """
        if find_spec("onnxruntime") is None:
            self._note(f"onnxruntime is not installed: the outputs of {model.name} will not be checked")
            return replace(model, reference=None)
        dims = model.contract.dims
        batch = dims[0] if isinstance(dims[0], int) else 1
        precision = model.precision or "fp32"
        job = ConversionJob(
            str(model.path.absolute()), batch, *size, preprocess=model.preprocess, stated_precision=precision
        )

        def make(path: Path) -> None:
            with scratch_folder() as folder:
                made = convert_in_child(job, folder, self._note, f"reference outputs of {model.name}")
                with written_whole(path) as file:
                    file.write(made.reference.read_bytes())

        key = {"reference": _digests_of(model), "size": size, "preprocess": str(model.preprocess)}
        return replace(model, reference=self._made(key, make, name="reference.npz"))

    def _made(self, key: Mapping[str, Any], make: Callable[[Path], object], name: str = "model.onnx") -> Path:
        text = json.dumps({**key, "format": _FORMAT, "libraries": _libraries()}, sort_keys=True)
        folder = self._root / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._given.add(folder)
        if not (folder / _COMPLETE).exists():
            self._trim()
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=_PART, dir=self._root))
            try:
                make(part / name)
                (part / _COMPLETE).touch()
                with contextlib.suppress(OSError):  # another process was quicker, and made the same
                    part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        (folder / _COMPLETE).touch()  # it counts as used now
        return folder / name

    def _trim(self) -> None:
        """Remove the longest unused models above the limit, but none that may still have to be pushed."""
        total = 0
        remove_abandoned(self._root, f"{_PART}*")
        for complete in sorted(
            self._root.glob(f"*/{_COMPLETE}"), key=lambda path: path.stat().st_mtime_ns, reverse=True
        ):
            folder = complete.parent
            total += sum(file.stat().st_size for file in folder.iterdir())
            if total > self._limit_bytes and folder not in self._given:
                shutil.rmtree(folder, ignore_errors=True)


def _described(conversion: Conversion) -> dict[str, Any]:
    images = conversion.calibration
    chosen = None if images is None else [_digest_of(str(path)) for path in (*images.calibration, *images.held_out)]
    return {"precision": conversion.precision, "target": conversion.target, "calibration": chosen}


def _digests_of(model: ModelFile) -> str | list[str | None] | None:
    """SHA-256 of a model's file; of one that keeps weights in other files, of all of them."""
    own = _digest_of(str(model.path))
    return own if not model.external else [own, *(_digest_of(str(path)) for path in model.external.values())]


def _digest_of(path: str) -> str | None:
    """SHA-256 of a file; None for what is no file but a word, such as "random"."""
    if path in (RANDOM, PRETRAINED):
        return None
    try:
        return file_sha256(Path(path))
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read ({error.strerror}); check the path") from error


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
