"""The exporting process seen from outside: however it ends, the caller gets files or an error with a remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backbench.controller.export import process, timm_import
from backbench.controller.export.process import export_with_torch
from backbench.controller.export.request import ExportRequest, check_weights, request_from_json
from backbench.domain import errors

REQUEST = ExportRequest("resnet18", 64, 64)
RESULT = '{"event": "result", "name": "resnet18"}'


@pytest.fixture(autouse=True)
def torch_seems_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "require_export", lambda: None)


def in_place_of_python(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let `script` be the exporting process."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def export_refused(folder: Path) -> errors.BackbenchError:
    with pytest.raises(errors.BackbenchError) as caught:
        export_with_torch(REQUEST, folder, lambda _: None)
    assert "\n" not in caught.value.message
    assert caught.value.exit_status == 2
    return caught.value


def test_a_request_comes_through_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = ExportRequest("vit.tag", 96, 112, 4, "pretrained", 3, True, ("batch", "size"), 17)
    assert request_from_json(full.to_json()) == full
    in_place_of_python(monkeypatch, tmp_path, f"cat > {tmp_path}/asked; echo \"$@\" > {tmp_path}/how; echo '{RESULT}'")
    made = export_with_torch(full, tmp_path, lambda _: None)
    assert request_from_json((tmp_path / "asked").read_text()) == full
    assert (tmp_path / "how").read_text() == f"-m backbench.controller.export.worker {tmp_path}\n"
    assert (made.model, made.reference) == (tmp_path / "model.onnx", tmp_path / "reference.npz")
    assert made.facts["name"] == "resnet18"


def test_stages_are_told_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = '{"event": "stage", "stage": "create"}'
    in_place_of_python(monkeypatch, tmp_path, f"cat > /dev/null; echo '{stage}'; echo '{RESULT}'")
    told: list[str] = []
    export_with_torch(REQUEST, tmp_path, told.append)
    assert told == ["export resnet18: create"]


def test_a_killed_process_is_one_line_about_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_python(monkeypatch, tmp_path, "cat > /dev/null; kill -9 $$")
    error = export_refused(tmp_path)
    assert type(error) is errors.InvalidArgument
    assert "export resnet18 was killed, most likely because memory ran out; close something" in error.message


def test_a_process_that_does_not_even_read_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place_of_python(monkeypatch, tmp_path, "exec < /dev/null; echo first >&2; echo last words >&2; exit 7")
    error = export_refused(tmp_path)
    assert type(error) is errors.InvalidModel
    assert error.message == "export resnet18 ended with status 7: last words"
    in_place_of_python(monkeypatch, tmp_path, "exit 5")
    assert export_refused(tmp_path).message == "export resnet18 ended with status 5: no message"


def test_a_failure_keeps_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = '{"event": "failure", "class": "ShapeMismatch", "message": "it does not fit"}'
    in_place_of_python(monkeypatch, tmp_path, f"cat > /dev/null; echo '{failure}'; exit 1")
    assert export_refused(tmp_path) == errors.ShapeMismatch("it does not fit")


def test_much_said_on_the_side_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = "head -c 1000000 /dev/zero | tr '\\0' 'x' >&2"
    in_place_of_python(monkeypatch, tmp_path, f"cat > /dev/null; {noise}; echo '{RESULT}'")
    assert export_with_torch(REQUEST, tmp_path, lambda _: None).facts["event"] == "result"


def test_an_interrupt_ends_the_process_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = '{"event": "stage", "stage": "create"}'
    in_place_of_python(
        monkeypatch, tmp_path, f"cat > /dev/null; echo $$ > {tmp_path}/pid; echo '{stage}'; exec sleep 600"
    )

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_with_torch(REQUEST, tmp_path, interrupt)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


@pytest.mark.parametrize("weights", ["gone.safetensors", "pretraind", "folder/"])
def test_weights_that_are_neither_a_word_nor_a_file_start_nothing(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place_of_python(monkeypatch, tmp_path, f"touch {tmp_path}/started")
    with pytest.raises(errors.InvalidArgument) as caught:
        export_with_torch(ExportRequest("resnet18", weights=weights), tmp_path, lambda _: None)
    assert caught.value.message == (
        f"--weights {weights}: no such file; take pretrained, random or the path of a checkpoint"
    )
    assert not (tmp_path / "started").exists()
    check_weights("pretrained")
    check_weights("random")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"opset": 16}, "--opset is 16; it must lie between 17 and 23"),
        ({"opset": 24}, "--opset is 24; it must lie between 17 and 23"),
        ({"dynamic": ("width",)}, '--dynamic "width" is not known; take batch or size'),
    ],
)
def test_a_request_for_what_there_is_not_cannot_be_made(change: dict[str, object], words: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=words):
        ExportRequest("resnet18", **change)  # type: ignore[arg-type]


def test_without_torch_the_extra_that_brings_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(timm_import, "find_spec", lambda name: None if name in ("torch", "timm") else object())
    error = export_refused(tmp_path)
    assert type(error) is errors.InvalidArgument
    assert error.message == ("exporting needs torch, timm, which is not installed; pip install 'backbench[export]'")


HIDDEN = """
import sys

class NotThere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "torchvision", "onnxscript"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, NotThere())
sys.path_importer_cache.clear()
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ("torch", "timm", "onnxscript") else real(name, *more)
from backbench.controller.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "command",
    [
        ("export", "resnet18", "--weights", "random", "-o", "model.onnx"),
        ("profile", "resnet18", "--device", "nowhere", "--weights", "random"),
    ],
)
def test_on_a_machine_without_torch_the_command_line_says_so_in_one_line(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN, "--store", str(tmp_path / "store"), *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "backbench: error: exporting needs torch, timm, onnxscript, which is not installed;"
        " pip install 'backbench[export]'\n"
    )
    assert not list(tmp_path.glob("*.onnx"))
