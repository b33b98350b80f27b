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
_DIGEST_DIGITS = 16


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


def preprocess_digest(preprocess: Preprocess) -> str:
    """A short digest of how an image becomes the input; equal for models that are fed alike."""
    canonical = json.dumps(asdict(preprocess), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGEST_DIGITS]


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
        "model": model_facts(model) or None,
        "preprocess": asdict(preprocess),
        "preprocess_digest": preprocess_digest(preprocess),
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
    """The manifest in a file; None where there is none that can be read."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("schema") == SCHEMA else None


def file_sha256(path: Path) -> str:
    """The digest of a file, read a megabyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
