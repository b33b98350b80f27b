"""Images on their way to a device."""

from __future__ import annotations

from pathlib import Path

from backbench.controller.client.uploads import Upload
from backbench.domain.artifact import ArtifactKind


def image_upload(path: Path) -> Upload:
    """The image as an artifact."""
    return Upload(path, ArtifactKind.IMAGE, path.name)
