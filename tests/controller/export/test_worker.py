"""What happens inside the exporting process: open sizes, too little memory, and how it tells of failures."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from backbench.controller.export import worker
from backbench.controller.export.request import ExportRequest
from backbench.controller.export.torch_model import ran_out_of_memory, torch_model
from backbench.domain.errors import InvalidArgument, InvalidModel
from backbench.models.onnx_input import inspect_input

# What torch, torchvision and timm say of themselves while they are imported is not this project's.
pytestmark = pytest.mark.filterwarnings("ignore")

PLENTY = 1 << 50


def stages(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["stage"] for line in stream.getvalue().splitlines()]


def is_right_at(path: Path, model: Any, dims: tuple[int, int, int, int]) -> bool:
    import torch

    image = np.random.default_rng(3).standard_normal(dims).astype(np.float32)
    with torch.no_grad():
        wanted = model.module(torch.from_numpy(image)).numpy()
    (got,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": image})
    return bool(got.shape == wanted.shape and np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("name", "size", "other", "odd"),
    [
        ("test_resnet", (64, 96), [128, 128], (65, 97)),
        pytest.param("mobilenetv3_small_100", (64, 64), [128, 96], (65, 97), marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224", (96, 96), [160, 128], (48, 64), marks=pytest.mark.slow),
        # Patches of 14 pixels: no multiple of 32 will do.
        pytest.param("vit_small_patch14_dinov2", (98, 98), [182, 140], (56, 70), marks=pytest.mark.slow),
    ],
)
def test_open_sizes_are_right_at_others_than_their_own(
    name: str, size: tuple[int, int], other: list[int], odd: tuple[int, int], timm: Any, tmp_path: Path
) -> None:
    request, stream = ExportRequest(name, *size, dynamic=("batch", "size")), io.StringIO()
    result = worker._export(request, tmp_path, stream)
    assert stages(stream) == ["import torch", "create", "export", "compare"]
    assert result["verification"]["sizes"] == [list(size), other]
    assert inspect_input(tmp_path / "model.onnx").dims == ("batch", 3, "height", "width")
    model = torch_model(timm, request, worker._photographs)
    for dims in ((1, 3, *size), (3, 3, 112, 224), (2, 3, *odd)):
        assert is_right_at(tmp_path / "model.onnx", model, dims)


@pytest.mark.slow
def test_an_open_batch_leaves_the_size_as_it_is(timm: Any, tmp_path: Path) -> None:
    request = ExportRequest("swin_tiny_patch4_window7_224", dynamic=("batch",))
    worker._export(request, tmp_path, io.StringIO())
    assert inspect_input(tmp_path / "model.onnx").dims == ("batch", 3, 224, 224)
    assert is_right_at(tmp_path / "model.onnx", torch_model(timm, request, worker._photographs), (3, 3, 224, 224))


def test_an_export_that_differs_from_torch_is_not_kept(
    timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backbench.controller.export import torch_export

    request = ExportRequest("test_resnet", 32, 32)
    model = torch_model(timm, request)
    monkeypatch.setattr(torch_export, "compare", lambda *_: torch_export.Comparison((), {"logits": 0.5}, 1e-3))
    monkeypatch.setattr("backbench.controller.export.ort.open_session", lambda _: None)
    with pytest.raises(InvalidModel, match=r"test_resnet: ONNX Runtime differs from torch by 5\.0e-01") as caught:
        worker._compared(model, request, tmp_path / "model.onnx", {}, np.zeros((1, 3, 32, 32), np.float32), 10)
    assert "\n" not in caught.value.message


def test_too_little_memory_is_told_before_it_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_available_bytes", lambda: 1_100_000_000)
    worker._check_memory("small", 11_000_000)
    with pytest.raises(InvalidArgument, match=r"exporting vit_large takes about 7\.0 GB of memory, 1\.1 GB are free;"):
        worker._check_memory("vit_large", 304_000_000)
    monkeypatch.setattr(worker, "_available_bytes", lambda: PLENTY)
    worker._check_memory("vit_large", 304_000_000)
    with pytest.raises(InvalidArgument, match=r"giant has 4\.0 GB of weights; one file holds up to 1\.8 GB; take a sm"):
        worker._check_memory("giant", 1_000_000_000)
    monkeypatch.setattr(worker, "_available_bytes", lambda: None)
    worker._check_memory("vit_large", 304_000_000)


def test_free_memory_is_read_from_the_system() -> None:
    free = worker._available_bytes()
    assert free is None or 1_000_000 < free < PLENTY


def test_torchs_words_for_too_little_memory_are_understood(timm: Any) -> None:
    assert timm
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58)
    assert ran_out_of_memory(caught.value)
    assert ran_out_of_memory(MemoryError())
    assert not ran_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        ("MemoryError()", "InvalidArgument", "memory ran out; take a smaller model or size, or a larger machine"),
        ('RuntimeError("can\'t allocate memory")', "InvalidArgument", "memory ran out"),
        ("InvalidModel('no checkpoint')", "InvalidModel", "no checkpoint"),
        ("KeyError('one\\ntwo')", "InvalidModel", "torch cannot export it (KeyError: 'one\\ntwo'); BACKBENCH_DEBUG=1"),
    ],
)
def test_the_last_line_says_why_there_is_no_file(raised: str, kind: str, words: str, tmp_path: Path) -> None:
    program = (
        "import sys; from backbench.controller.export import worker; from backbench.domain.errors import InvalidModel\n"
        "def fail(*_):\n"
        "    print('torch prints something'); worker._stage(_[2], 'create'); raise " + raised + "\n"
        "worker._export = fail; sys.exit(worker.main(sys.argv[1:]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "BACKBENCH_DEBUG"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        input=ExportRequest("resnet18").to_json(),
    )
    assert done.returncode == 1
    assert "torch prints something" in done.stderr
    stage, failure = (json.loads(line) for line in done.stdout.splitlines())
    assert stage == {"event": "stage", "stage": "create"}
    assert (failure["event"], failure["class"]) == ("failure", kind)
    assert words in failure["message"]
    assert "\n" not in failure["message"]
    assert not list(tmp_path.iterdir())
