"""What MODEL means on the command line: a backbone of the catalogue, or an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbench.controller.client.uploads import Upload
from backbench.controller.export.manifest import manifest_beside, reference_beside
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import InvalidArgument, ShapeMismatch
from backbench.domain.preprocess import IMAGENET_DEFAULT, Preprocess
from backbench.models import catalog
from backbench.models.onnx_input import InputContract, inspect_input
from backbench.models.recipe import Recipe

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that is ready to be pushed. `recipe` is None for a file that is not from the catalogue.

    `origin` is "skeleton", "export" or "file"; `reference` holds the outputs that the device has to give, if known, and
    `manifest` what was noted when it was exported or converted.
    """

    name: str
    path: Path
    contract: InputContract
    recipe: Recipe | None = None
    origin: str = "file"
    reference: Path | None = None
    manifest: Mapping[str, Any] | None = None

    @property
    def source(self) -> str:
        """Where the model comes from, in the run's words."""
        return "skeleton" if self.contract.skeleton else self.origin

    @property
    def precision(self) -> str | None:
        """fp32, fp16 or int8, as its metadata says; None for a file that does not say."""
        return self.contract.precision

    @property
    def target(self) -> str | None:
        """What an int8 model is laid out for, "cpu" or "tensorrt"; None for others, and where it does not say."""
        return self.contract.target if self.precision == "int8" else None

    @property
    def upload(self) -> Upload:
        """The model as an artifact."""
        return Upload(self.path, ArtifactKind.SKELETON if self.contract.skeleton else ArtifactKind.MODEL, self.name)

    @property
    def external(self) -> dict[str, Path]:
        """The files in which the model keeps weights, by their paths from its own folder."""
        return {location: self.path.parent / location for location in self.contract.external}

    @property
    def uploads(self) -> tuple[Upload, ...]:
        """The model and its files as artifacts."""
        files = (
            Upload(path, ArtifactKind.WEIGHTS, f"{self.name} {location}") for location, path in self.external.items()
        )
        return (self.upload, *files)

    @property
    def reference_upload(self) -> Upload | None:
        """The reference outputs as an artifact."""
        return (
            None if self.reference is None else Upload(self.reference, ArtifactKind.REFERENCE, f"{self.name} reference")
        )

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes its input."""
        if self.contract.preprocess is not None:
            return self.contract.preprocess
        return self.recipe.preprocess if self.recipe is not None else IMAGENET_DEFAULT

    @property
    def preprocess_assumed(self) -> bool:
        """Whether nothing states how an image becomes its input."""
        return self.recipe is None and self.contract.preprocess is None

    def size(self, asked: Size | None) -> Size:
        """The input size of a run: what is asked for if the model takes it, else its own. Raises ShapeMismatch."""
        height, width = asked or self._own_size()
        if self.recipe is not None:
            self.recipe.check_size(height, width)
        self._check("height", self.contract.dims[2], height)
        self._check("width", self.contract.dims[3], width)
        return height, width

    def at(self, size: Size) -> ModelFile:
        """The same backbone, with the skeleton that is for this size."""
        if self.recipe is None or self.path != catalog.skeleton_path(self.recipe.name):
            return self
        path = catalog.skeleton_path(self.recipe.name, size)
        return self if path == self.path else replace(self, path=path, contract=inspect_input(path))

    def check_batch(self, batch: int) -> None:
        """Raises ShapeMismatch unless the model takes the batch."""
        self._check("batch", self.contract.dims[0], batch)

    def _own_size(self) -> Size:
        if self.recipe is not None:
            return self.recipe.size
        height, width = self.contract.dims[2:]
        if isinstance(height, int) and isinstance(width, int):
            return height, width
        raise InvalidArgument(f"{self.path} takes more than one size; say which: --size 224, or --size HEIGHTxWIDTH")

    def _check(self, what: str, taken: int | str, asked: int) -> None:
        if isinstance(taken, int) and taken != asked:
            raise ShapeMismatch(f"{self.name} takes {what} {taken} only, not {asked}; export it with a dynamic {what}")


def resolve_model(text: str) -> ModelFile:
    """The backbone or file that `text` names. Raises UnknownBackbone, InvalidArgument, InvalidModel."""
    if text in catalog.names():
        path = catalog.skeleton_path(text)
        return ModelFile(text, path, inspect_input(path), catalog.recipe(text), "skeleton")
    path = Path(text)
    if path.is_file():
        contract, manifest = inspect_input(path), manifest_beside(path)
        return ModelFile(path.stem, path, contract, reference=reference_beside(path, manifest), manifest=manifest)
    if path.is_dir():
        raise InvalidArgument(f"{text} is a folder; give the path of an .onnx file or the name of a backbone")
    if path.suffix or "/" in text:
        raise InvalidArgument(f"no file {text}; check the path, or give the name of a backbone (see backbench models)")
    catalog.recipe(text)
    raise AssertionError("a name that the catalogue does not list has no recipe")


def parse_size(text: str) -> Size:
    """`224` or `HEIGHTxWIDTH`. Raises InvalidArgument.

    >>> parse_size("480x640")
    (480, 640)
    """
    height, separator, width = text.lower().replace("×", "x").partition("x")
    sides = (height, width if separator else height)
    if not all(side.isascii() and side.isdecimal() and 1 <= int(side) <= 16384 for side in sides):
        raise InvalidArgument(f'--size "{text}" is not a size of 1 to 16384 pixels; write 224 or HEIGHTxWIDTH, 480x640')
    return int(sides[0]), int(sides[1])
