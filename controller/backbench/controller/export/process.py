"""Runs the exporting process and turns its ending into files or into an error that says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbench.controller.export.request import ExportRequest, check_weights
from backbench.controller.export.timm_import import require_export
from backbench.domain import errors

Note = Callable[[str], None]
"""Is told each stage of a long step."""

_SIGKILL = -9


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
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [sys.executable, "-m", "backbench.controller.export.worker", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        try:
            last = _follow(process, request, note)
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0 and last.get("event") == "result":
        return TorchExport(folder / "model.onnx", folder / "reference.npz", last)
    if last.get("event") == "failure":
        raise getattr(errors, str(last["class"]))(last["message"])
    if process.returncode == _SIGKILL:
        raise errors.InvalidArgument(
            f"exporting {request.name} was killed, most likely because memory ran out; close something, or export on a"
            " larger machine"
        )
    raise errors.InvalidModel(
        f"exporting {request.name} ended with status {process.returncode}: {last.get('stderr') or 'no message'}"
    )


def _follow(process: subprocess.Popen[str], request: ExportRequest, note: Note) -> dict[str, Any]:
    import threading

    assert process.stdin is not None  # noqa: S101 - they were asked for
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    words: list[str] = []
    reader = threading.Thread(target=words.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        process.stdin.write(request.to_json())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended already; how it ended says the rest
    last: dict[str, Any] = {}
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "stage":
            note(f"export {request.name}: {event['stage']}")
        else:
            last = event
    process.wait()
    reader.join()
    said = [line.strip() for line in words if line.strip()]
    return last or {"stderr": said[-1] if said else ""}
