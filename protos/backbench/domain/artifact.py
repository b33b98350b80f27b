"""Artifacts: bytes named by their SHA-256."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactKind(Enum):
    """What an artifact holds."""

    MODEL = "model"
    SKELETON = "skeleton"
    IMAGE = "image"
    TRACE = "trace"
    REFERENCE = "reference"
    WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact that a store holds."""

    sha256: str
    size_bytes: int
    kind: ArtifactKind
    name: str
    created_unix_ns: int


def is_sha256(text: str) -> bool:
    """Whether the text is a SHA-256 as 64 lower-case hex digits."""
    return _SHA256.fullmatch(text) is not None
