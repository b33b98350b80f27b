"""What lies beside an exported model: its manifest, for whatever drops a model's metadata, as TensorRT engines do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from backbench.domain.preprocess import Preprocess
from backbench.models.hygiene import content_sha256
from backbench.models.onnx_input import model_facts

SCHEMA = "backbench.manifest/1"
_NONE = type(None)
_CONVERSION: Mapping[str, tuple[type, ...]] = {
    "precision": (str,),
    "target": (str,),
    "scheme": (str,),
    "note": (str, _NONE),
    "images": (str,),
    "calibration_image_count": (int, _NONE),
    "held_out_image_count": (int,),
    "held_out_independent": (bool,),
    "outputs": (list,),
    "mac_operator_count": (int,),
    "converted_mac_operator_count": (int,),
    "float_operators": (dict,),
}
_OUTPUT = {"name", "sqnr_db", "cosine", "top1_agreement"}


@dataclass(frozen=True, slots=True)
class SideFiles:
    """The files beside `model`: NAME.onnx has NAME.manifest.json and NAME.reference.npz."""

    model: Path

    @property
    def manifest(self) -> Path:
        """The sidecar manifest."""
        return self.model.with_suffix(".manifest.json")

    @property
    def reference(self) -> Path:
        """The reference outputs."""
        return self.model.with_suffix(".reference.npz")


def manifest_of(
    model: onnx.ModelProto,
    data: bytes,
    file: str,
    preprocess: Preprocess,
    verification: Mapping[str, Any] | None,
    precision: Mapping[str, Any] | None,
    reference_sha256: str | None,
) -> dict[str, Any]:
    """The manifest of a model that is stored as `data` in `file`. The same model gives the same manifest."""
    return {
        "schema": SCHEMA,
        "file": file,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "content_sha256": content_sha256(model),
        "model": model_facts(model, Path(file)) or None,
        "preprocess": asdict(preprocess),
        "preprocess_digest": preprocess.digest,
        "verification": None if verification is None else dict(verification),
        "precision": None if precision is None else dict(precision),
        "reference_sha256": reference_sha256,
    }


def manifest_beside(model: Path) -> dict[str, Any] | None:
    """The manifest beside a model file, if there is one and it is that of this very file."""
    manifest = read_manifest(SideFiles(model).manifest)
    return manifest if manifest and manifest.get("sha256") == file_sha256(model) else None


def reference_beside(model: Path, manifest: Mapping[str, Any] | None) -> Path | None:
    """The reference outputs beside a model file, if there are any that its manifest says are its own."""
    reference = SideFiles(model).reference
    if manifest is None or not reference.is_file():
        return None
    return reference if manifest.get("reference_sha256") == file_sha256(reference) else None


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest in a file; None where there is none that can be read, or its form is another."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) and _is_sound(manifest) else None


def _is_sound(manifest: Mapping[str, Any]) -> bool:
    """Whether the parts that a run's document and its words are made from have the form that `manifest_of` gives."""
    model, verification, precision = (manifest.get(part) for part in ("model", "verification", "precision"))
    if manifest.get("schema") != SCHEMA or not all(
        part is None or isinstance(part, dict) for part in (model, verification, precision)
    ):
        return False
    return precision is None or (
        all(isinstance(precision.get(name), kinds) for name, kinds in _CONVERSION.items())
        and all(isinstance(row, dict) and row.keys() >= _OUTPUT for row in precision["outputs"])
    )


def file_sha256(path: Path) -> str:
    """The digest of a file, read a megabyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
