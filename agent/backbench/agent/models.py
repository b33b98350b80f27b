"""Models made ready for one size, kept until their room is needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from backbench.domain.run import RunSpec

_FORMAT = "1"
"""Raise it when the same artifact would be made ready differently, so that older files are not taken for new ones."""


class ModelCache:
    """Prepared models in `root/models`, at most `limit_bytes` of them; the longest unused go first, none in use."""

    def __init__(self, root: Path, limit_bytes: int = 4 << 30) -> None:
        self._folder = root / "models"
        self._limit_bytes = limit_bytes
        self._held: Counter[Path] = Counter()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clear(".*.part")

    def path(self, spec: RunSpec) -> Path:
        """Where the model of a run lies or will lie: named by everything that determines its bytes."""
        model = spec.model
        key = f"{_FORMAT} {model.sha256} {model.source} {spec.batch} {spec.height} {spec.width}"
        key += "".join(f"\n{file.sha256} {file.location}" for file in model.external)
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.onnx"

    def ready(self, path: Path) -> bool:
        """Whether it is there; if so it counts as used now."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def held(self, path: Path) -> Iterator[None]:
        """Keep a model, there or still to be made, for as long as the block lasts."""
        self._held[path] += 1
        try:
            yield
        finally:
            self._held[path] -= 1

    def tidy(self, path: Path) -> None:
        """Remove what a preparation of a model left that was killed, and models above the limit."""
        self._clear(f".{path.name}.*.part")
        self._trim()

    def _clear(self, pattern: str) -> None:
        for left_behind in self._folder.glob(pattern):
            left_behind.unlink(missing_ok=True)

    def _trim(self) -> None:
        """Remove the longest unused models above the limit, but none that is held."""
        models = sorted(self._folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        total = 0
        for path in sorted(models, key=lambda path: not self._held[path]):
            total += path.stat().st_size
            if total > self._limit_bytes and not self._held[path]:
                path.unlink(missing_ok=True)
