"""A stand-in for a Raspberry Pi's mailbox: it answers what `vcgencmd` printed on the board that was recorded."""

from __future__ import annotations

import errno
import re
import struct
from typing import Protocol

from backbench.agent.sensors import mailbox

_ANSWERED = 0x80000000
_VALUES_AT = 20
_UNKNOWN = b'error=1 error_msg="Command not registered"'


class _Recording(Protocol):
    def read(self, path: str) -> bytes:
        """A file that was recorded."""

    def glob(self, pattern: str) -> list[str]:
        """Paths that were recorded."""


def answer_mailbox(recording: _Recording, path: str, request: int, buffer: bytearray) -> None:
    """Put the firmware's answer into a buffer of tags, as the driver does.

    Raises ENOENT for another device and for a board of which no command was recorded, ENOTTY for another request, and
    whatever reading a recorded command fails with.
    """
    if path not in mailbox.COMMAND_DEVICES or not recording.glob("cmd/vcgencmd *"):
        raise OSError(errno.ENOENT, "no such device was recorded", path)
    if request != mailbox.PROPERTY_REQUEST:
        raise OSError(errno.ENOTTY, "no such request", path)
    if len(buffer) < _VALUES_AT + 4:
        raise OSError(errno.EINVAL, "no room for a tag", path)
    tag, room = struct.unpack_from("<2I", buffer, 8)
    asked = bytes(buffer[_VALUES_AT : _VALUES_AT + room])
    answer = _answer(recording, tag, asked)
    struct.pack_into("<I", buffer, 4, _ANSWERED)
    if answer is None or len(answer) > len(asked):
        return  # the tag is left as it was, which says that it is not known
    struct.pack_into("<I", buffer, 16, _ANSWERED | len(answer))
    buffer[_VALUES_AT : _VALUES_AT + len(answer)] = answer


def _answer(recording: _Recording, tag: int, asked: bytes) -> bytes | None:
    if tag == mailbox.GET_THROTTLED:
        return _number(recording, "get_throttled", rb"throttled=0x([0-9a-fA-F]{1,8})", 16)
    if tag == mailbox.GET_CLOCK_MEASURED and asked[:4] == struct.pack("<I", mailbox.ARM_CLOCK):
        clock = _number(recording, "measure_clock arm", rb"frequency\(\d+\)=(\d{1,9}|[1-3]\d{9})", 10)
        return None if clock is None else asked[:4] + clock
    if tag == mailbox.GET_GENCMD_RESULT:
        command = asked[4:].split(b"\0", 1)[0].decode("ascii", "replace")
        text = _printed(recording, command)
        status = 0 if text is not None else 1
        longest = len(asked) - 5
        return struct.pack("<I", status) + (_UNKNOWN if text is None else text.rstrip(b"\n"))[:longest] + b"\0"
    return None


def _number(recording: _Recording, command: str, pattern: bytes, base: int) -> bytes | None:
    found = re.fullmatch(pattern, (_printed(recording, command) or b"").strip())
    return None if found is None else struct.pack("<I", int(found[1], base))


def _printed(recording: _Recording, command: str) -> bytes | None:
    try:
        return recording.read(f"cmd/vcgencmd {command}")
    except FileNotFoundError:
        return None
