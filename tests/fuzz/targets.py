"""What reads bytes that others wrote: given any bytes, it must give what is whole, or an error of Backbench's own.

`scripts/fuzz journal` and `scripts/fuzz specification` feed these with bytes that a coverage-guided fuzzer finds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from google.protobuf.message import DecodeError

from backbench.agent.validation import check_spec
from backbench.domain.device import Limits
from backbench.domain.errors import BackbenchError
from backbench.domain.event import Happening, LogLine, Progress, RunEvent, StateChange
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import BackendSpec, ModelRef, RunSpec, RunState
from backbench.v1 import run_pb2
from backbench.wire.columns import frames_from_pb, telemetry_from_pb
from backbench.wire.event import event_from_bytes, event_to_bytes
from backbench.wire.mapping import from_message
from backbench.wire.records import RecordWriter, read_records
from backbench.wire.run import spec_from_bytes, spec_to_bytes

_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own in it
_SCRATCH = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())


def journal(data: bytes) -> None:
    """Bytes as a journal's segment: it is read up to the damage, can be gone on with, and loses nothing by that."""
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as folder:
        path = Path(folder) / "events.seg"
        path.write_bytes(data)
        found = [(sequence, payload) for sequence, payload, _ in read_records(path, expected=1)]
        assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))
        with RecordWriter(path) as writer:
            writer.append(writer.last_sequence + 1, b"next")
        again = [(sequence, payload) for sequence, payload, _ in read_records(path, expected=1)]
        assert again == [*found, (len(found) + 1, b"next")]
    for _, payload in found:
        event(payload)


def event(data: bytes) -> None:
    """Bytes as an event of a journal: what can be read can be written again, and read as the same."""
    try:
        read = event_from_bytes(data)
    except BackbenchError:
        return
    written = event_to_bytes(read)
    assert event_to_bytes(event_from_bytes(written)) == written


def specification(data: bytes) -> None:
    """Bytes as the specification of a run: refused, or kept and read again as the same."""
    try:
        spec = from_message(run_pb2.RunSpec.FromString(data), RunSpec)
        check_spec(spec, Limits())
    except (DecodeError, BackbenchError):
        return
    stored = spec_to_bytes(spec)
    assert spec_to_bytes(spec_from_bytes(stored)) == stored


def events() -> list[bytes]:
    """Events as an agent writes them."""
    happenings: tuple[Happening, ...] = (
        StateChange(RunState.QUEUED),
        LogLine("info", "words"),
        Progress("measure", 3, 10),
    )
    return [event_to_bytes(RunEvent(number, number, number, each)) for number, each in enumerate(happenings, 1)]


def segment() -> bytes:
    """A journal's segment of these events."""
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as folder:
        path = Path(folder) / "whole.seg"
        with RecordWriter(path) as writer:
            for number, payload in enumerate(events(), 1):
                writer.append(number, payload)
        return path.read_bytes()


def a_specification() -> bytes:
    """A specification that an agent takes."""
    spec = RunSpec(new_run_id(), ModelRef("tiny", "ab" * 32, "file"), 32, 32, backend=BackendSpec("onnxruntime"))
    return spec_to_bytes(spec)


TARGETS: Mapping[str, Callable[[bytes], None]] = {"journal": journal, "event": event, "specification": specification}
_FOLLOWED = (
    read_records, RecordWriter.append, event_from_bytes, event_to_bytes, frames_from_pb, telemetry_from_pb,
    from_message, check_spec, spec_from_bytes,
)  # fmt: skip
"""What the fuzzer watches, to find bytes that lead somewhere new."""


def main() -> None:
    """Fuzz one target until stopped; further arguments go to libFuzzer, such as -runs=100000."""
    import atheris

    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"fuzz: give one of {', '.join(TARGETS)}")
    for function in _FOLLOWED:
        atheris.instrument_func(function)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate({"journal": [segment()], "event": events()}.get(name, [a_specification()])):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *sys.argv[2:], corpus], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
