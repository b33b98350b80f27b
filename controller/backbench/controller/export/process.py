"""Runs the exporting process and turns its ending into files or into an error that says what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbench.controller.export.conversion_worker import ConversionJob
from backbench.controller.export.request import PRETRAINED, RANDOM, ExportRequest, check_weights
from backbench.controller.export.timm_import import require_export
from backbench.domain import errors

Note = Callable[[str], None]
"""Is told each stage of a long step."""

_BY_MEMORY = (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT)
"""How a process ends that did not get the memory it needs."""


@dataclass(frozen=True, slots=True)
class TorchExport:
    """What the exporting process left: the fp32 model, reference outputs by torch, and what it compared."""

    model: Path
    reference: Path
    facts: dict[str, Any]


def export_with_torch(request: ExportRequest, folder: Path, note: Note) -> TorchExport:
    """`model.onnx` and `reference.npz` in `folder`.

    Raises InvalidArgument (no torch, no weights, too little memory), UnknownBackbone, ShapeMismatch, InvalidModel.
    """
    require_export()
    check_weights(request.weights)
    if request.weights not in (RANDOM, PRETRAINED):
        request = replace(request, weights=str(Path(request.weights).absolute()))
    what = f"export {request.name}"
    return TorchExport(*_made_in_child("worker", request.to_json(), folder, note, what))


def convert_in_child(job: ConversionJob, folder: Path, note: Note, what: str) -> TorchExport:
    """The model of a job and its reference outputs, made where a lack of memory does no harm. Needs no torch.

    `facts["report"]` is the document of the conversion, None without one. Raises what `convert` does, and
    InvalidArgument where memory ran out.
    """
    note(what)
    return TorchExport(*_made_in_child("conversion_worker", job.to_json(), folder, note, what))


def _made_in_child(module: str, text: str, folder: Path, note: Note, what: str) -> tuple[Path, Path, dict[str, Any]]:
    """Run one of this package's workers on `text`. It works in `folder`, so that nothing else lies on its path."""
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [sys.executable, "-m", f"backbench.controller.export.{module}", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder,
    ) as process:  # fmt: skip
        try:
            last = _follow(process, text, note, what)
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0 and last.get("event") == "result":
        return folder / "model.onnx", folder / "reference.npz", last
    if last.get("event") == "failure":
        raise getattr(errors, str(last["class"]))(last["message"])
    if process.returncode in _BY_MEMORY:
        raise errors.InvalidArgument(
            f"{what} was killed, most likely because memory ran out; close something, or do it on a larger machine"
        )
    raise errors.InvalidModel(f"{what} ended with status {process.returncode}: {last.get('stderr') or 'no message'}")


def _follow(process: subprocess.Popen[str], text: str, note: Note, what: str) -> dict[str, Any]:
    import threading

    assert process.stdin is not None  # noqa: S101 - they were asked for
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    words: list[str] = []
    reader = threading.Thread(target=words.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        process.stdin.write(text)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended already; how it ended says the rest
    last: dict[str, Any] = {}
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "stage":
            note(f"{what}: {event['stage']}")
        else:
            last = event
    process.wait()
    reader.join()
    said = [line.strip() for line in words if line.strip()]
    return last or {"stderr": said[-1] if said else ""}
