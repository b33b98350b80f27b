"""Exports by torch, each made once for all tests of the controller."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from backbench.controller.export.exporter import Conversion, Exported, export
from backbench.controller.export.request import ExportRequest

Exports = Callable[[ExportRequest], Exported]


def _require_timm() -> None:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed (pip install 'backbench[export]')")


@pytest.fixture(scope="session")
def timm() -> Any:
    """timm in this process, with torch on one thread."""
    _require_timm()
    from backbench.controller.export.timm_import import import_timm

    timm = import_timm()
    import torch

    torch.set_num_threads(1)
    return timm


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """The files of an fp32 export, made by a process of its own as on the command line."""
    _require_timm()
    made: dict[ExportRequest, Exported] = {}

    def exported(request: ExportRequest) -> Exported:
        if request not in made:
            folder: Path = tmp_path_factory.mktemp("export")
            made[request] = export(request, Conversion(), folder / f"{request.name}.onnx", lambda _: None)
        return made[request]

    return exported
