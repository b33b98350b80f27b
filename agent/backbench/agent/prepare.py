"""Makes a model ready in a process of its own: `... -m backbench.agent.prepare SOURCE DESTINATION KIND N H W`.

So neither the agent nor a measuring worker carries the memory or the libraries that this takes. Standard input says who
started it and, of a model that keeps weights in other files, where each of them lies. On failure the last line of
standard output is a JSON document with the reason and the message.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

from backbench.agent.isolation import isolate
from backbench.domain.errors import BackbenchError, DiskFull, ShapeMismatch, StoreUnusable
from backbench.domain.run import FailureReason

_LARGEST_FILE = 16 << 30


def main(arguments: list[str]) -> int:
    """Write the model for one size to the destination; 0 when it is there, whole."""
    isolate(_LARGEST_FILE)
    source, destination, kind, batch, height, width = arguments
    told = json.load(sys.stdin)
    if os.getppid() != told["parent_pid"]:
        return 1  # the agent is gone already
    from backbench.models.onnx_input import onnx_for_size
    from backbench.models.skeleton import materialise

    files = {location: Path(path) for location, path in told["external"].items()}
    make = materialise if kind == "skeleton" else partial(onnx_for_size, files=files)
    try:
        make(Path(source), Path(destination), batch=int(batch), height=int(height), width=int(width))
    except (DiskFull, StoreUnusable) as error:
        return _fail(FailureReason.DISK_FULL, str(error))
    except BackbenchError as error:
        refused = isinstance(error, ShapeMismatch)
        reason = FailureReason.SHAPE_MISMATCH if refused else FailureReason.INVALID_MODEL
        return _fail(reason, str(error))
    except MemoryError:
        return _fail(FailureReason.OUT_OF_MEMORY, "making the model ready needs more memory than there is")
    except OSError as error:
        return _fail(FailureReason.DISK_FULL, f"cannot write the prepared model: {error.strerror}; free some room")
    return 0


def _fail(reason: FailureReason, message: str) -> int:
    sys.stdout.write(json.dumps({"event": "failure", "reason": reason.value, "message": message}) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
