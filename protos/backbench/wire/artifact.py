"""Kinds of artifacts to the wire's numbers and back."""

from __future__ import annotations

from backbench.domain.artifact import ArtifactKind
from backbench.v1 import artifact_pb2

_PREFIX = "ARTIFACT_KIND_"


def kind_to_pb(kind: ArtifactKind) -> artifact_pb2.ArtifactKind.ValueType:
    """The number of a kind."""
    return artifact_pb2.ArtifactKind.Value(_PREFIX + kind.name)


def kind_from_pb(number: int) -> ArtifactKind | None:
    """The kind of a number; None for one that this version does not know."""
    numbers: dict[int, ArtifactKind] = {kind_to_pb(kind): kind for kind in ArtifactKind}
    return numbers.get(number)
