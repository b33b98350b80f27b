"""Where a model's weights may lie when they lie beside it: below its folder, by plain names, each place once."""

from __future__ import annotations

from collections.abc import Collection

from backbench.domain.errors import InvalidModel

MAX_FILES = 1024
_LONGEST = 1024
_LONGEST_PART = 255


def check_locations(locations: Collection[str], what: str) -> None:
    """Raises InvalidModel, naming `what` and the path, unless every path stays below the model's folder.

    They are relative, joined by "/", and none is named twice or is a folder of another.

    >>> check_locations(["weights.data", "parts/1.bin"], "model.onnx")
    """
    if len(locations) > MAX_FILES:
        raise InvalidModel(f"{what}: its weights lie in {len(locations)} files; save them in at most {MAX_FILES}")
    seen: set[str] = set()
    for location in locations:
        if problem := _problem(location):
            raise InvalidModel(
                f"{what}: the path {_shown(location)} of its weights {problem}; save the model again with its weights"
                " beside it"
            )
        if location in seen:
            raise InvalidModel(f"{what}: the path {_shown(location)} of its weights is named twice; name it once")
        seen.add(location)
    for location in locations:
        parts = location.split("/")
        if any("/".join(parts[:length]) in seen for length in range(1, len(parts))):
            raise InvalidModel(
                f"{what}: the path {_shown(location)} of its weights lies in what is a file by another path; save the"
                " model again"
            )


def _problem(location: str) -> str | None:
    """Why a path does not stay below the model's folder; None where it does."""
    parts = location.split("/")
    too_long = len(location.encode()) > _LONGEST or any(len(part.encode()) > _LONGEST_PART for part in parts)
    problems = {
        "is empty": not location,
        "is absolute": location.startswith("/") or location[1:2] == ":",
        "has a character that is not taken": "\\" in location or not location.isprintable(),
        "leaves the model's folder": ".." in parts,
        "is not written plainly": "" in parts or "." in parts,
        "is too long": too_long,
    }
    return next((problem for problem, found in problems.items() if found), None)


def _shown(location: str) -> str:
    return ascii(location if len(location) <= 80 else f"{location[:80]}...")
