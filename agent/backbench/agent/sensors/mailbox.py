"""What a Raspberry Pi's firmware says of itself: by its mailbox, or by the `vcgencmd` command where that is shut.

The mailbox takes a list of tags in one buffer of 32-bit words: size, 0, tag, room, 0, values, 0. A request for the
throttle word carries 0: any other value would clear the bits that the firmware keeps since its start.
"""

from __future__ import annotations

import errno
import re
import struct

from backbench.agent.sensors.tree import Tree

DEVICE = "dev/vcio"
COMMAND_DEVICES = ("dev/vcio_gencmd", DEVICE)
PROPERTY_REQUEST = 0xC0086400
GET_THROTTLED = 0x00030046
GET_CLOCK_MEASURED = 0x00030047
GET_GENCMD_RESULT = 0x00030080
ARM_CLOCK = 3
_LONGEST_ANSWER = 1024
_SYSFS_WORDS = (
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/platform/soc@*/*firmware/get_throttled",
)
_ANSWERED = 0x80000000


def throttle_word_by_mailbox(tree: Tree) -> int:
    """The throttle word: bits 0 to 3 are live, 16 to 19 are kept since the start. Raises OSError."""
    return _property(tree, DEVICE, GET_THROTTLED, struct.pack("<I", 0))[0]


def arm_clock_by_mailbox(tree: Tree) -> int:
    """The processors' clock in Hz as it is delivered. Raises OSError."""
    return _running(_property(tree, DEVICE, GET_CLOCK_MEASURED, struct.pack("<2I", ARM_CLOCK, 0))[1])


def command_by_mailbox(tree: Tree, text: str) -> str:
    """The answer to a `vcgencmd` command, by the mailbox. Raises OSError."""
    request = struct.pack("<I", 0) + text.encode("ascii").ljust(_LONGEST_ANSWER, b"\0")
    failure: OSError | None = None
    for device in COMMAND_DEVICES:
        try:
            answer = _exchange(tree, device, GET_GENCMD_RESULT, request)
        except OSError as error:
            failure = failure or error
            continue
        return answer[4:].split(b"\0", 1)[0].decode("ascii", "replace")
    raise failure or OSError(errno.ENOENT, "no mailbox")


def command(tree: Tree, text: str, timeout_s: float = 1.0) -> str:
    """The answer to a `vcgencmd` command, by the program of that name. Raises OSError."""
    return tree.run(["vcgencmd", *text.split()], timeout_s).decode("ascii", "replace").strip()


def throttle_word_by_command(tree: Tree) -> int:
    """The throttle word by `vcgencmd`. Raises OSError, EILSEQ for an answer that holds none."""
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", command(tree, "get_throttled"))
    if found is None:
        raise OSError(errno.EILSEQ, "no throttle word")
    return int(found[1], 16)


def throttle_word_by_kernel(tree: Tree) -> int:
    """The kernel's copy of the throttle word, up to 2 s old: hex digits without 0x. Raises OSError."""
    for pattern in _SYSFS_WORDS:
        for path in tree.glob(pattern):
            text = tree.read(path).strip(b"\0 \n").removeprefix(b"0x")
            if re.fullmatch(rb"[0-9a-fA-F]{1,8}", text) is None:
                raise OSError(errno.EILSEQ, "no throttle word", path)
            return int(text, 16)
    raise OSError(errno.ENOENT, "the kernel keeps no throttle word")


def clock_hz(answer: str) -> int:
    """Hz out of "frequency(48)=600117184"; the number in brackets differs from board to board. Raises OSError."""
    return _running(int(_matched(r"frequency\(\d+\)=(\d{1,12})", answer)[1]))


def temperature_mc(answer: str) -> int:
    """Thousandths of a degree out of "temp=61.4'C". Raises OSError."""
    return round(float(_matched(r"temp=(-?\d{1,3}(?:\.\d+)?)'C", answer)[1]) * 1000)


def _running(clock: int) -> int:
    """A clock of 0 was not measured."""
    if clock == 0:
        raise OSError(errno.EAGAIN, "no clock was measured")
    return clock


def _matched(pattern: str, answer: str) -> re.Match[str]:
    found = re.fullmatch(pattern, answer.strip())
    if found is None:
        raise OSError(errno.EILSEQ, f"not understood: {answer[:60]}")
    return found


def _property(tree: Tree, device: str, tag: int, value: bytes) -> tuple[int, ...]:
    answer = _exchange(tree, device, tag, value)
    return struct.unpack(f"<{len(answer) // 4}I", answer)


def _exchange(tree: Tree, device: str, tag: int, value: bytes) -> bytes:
    room = (len(value) + 3) // 4 * 4
    words = struct.pack("<5I", 24 + room, 0, tag, room, 0) + value.ljust(room, b"\0") + struct.pack("<I", 0)
    buffer = bytearray(words)
    tree.ioctl(device, PROPERTY_REQUEST, buffer)
    if struct.unpack_from("<I", buffer, 4)[0] != _ANSWERED or not struct.unpack_from("<I", buffer, 16)[0] & _ANSWERED:
        raise OSError(errno.EIO, "the firmware did not take the request", device)
    return bytes(buffer[20 : 20 + room])
