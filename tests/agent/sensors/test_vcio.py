"""A Raspberry Pi's firmware by each of the three ways to it."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence

import pytest

from backbench.agent.sensors import mailbox
from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.trees import open_tree
from backbench.agent.sensors.vcio import Firmware

_REASONS = ("undervoltage", "frequency", "thermal", "softlimit")
_KERNEL_WORD = "sys/devices/platform/soc/soc:firmware/get_throttled"


class Board:
    """A board with a mailbox, a command and a kernel's copy, or without: an int is an errno that is raised."""

    simulated = False

    def __init__(
        self,
        properties: Mapping[int, int] | int = errno.ENOENT,
        commands: Mapping[str, str] | int = errno.ENOENT,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        self.properties, self.commands, self.files = properties, commands, files or {}
        self.requests: list[tuple[str, bytes]] = []

    def ioctl(self, path: str, request: int, buffer: bytearray) -> None:
        assert request == 0xC0086400
        if isinstance(self.properties, int):
            raise OSError(self.properties, "refused")
        self.requests.append((path, bytes(buffer)))
        size, code, tag, room, used = struct.unpack_from("<5I", buffer)
        assert (size, code, used) == (len(buffer), 0, 0)
        assert len(buffer) == 24 + room
        assert buffer[-4:] == b"\0\0\0\0"
        if tag not in self.properties:
            raise OSError(errno.EINVAL, "unknown tag")
        struct.pack_into("<I", buffer, 4, 0x80000000)
        struct.pack_into("<I", buffer, 16, 0x80000000 | room)
        struct.pack_into("<I", buffer, 20 + (room - 4), self.properties[tag])

    def run(self, argv: Sequence[str], timeout_s: float = 1.0) -> bytes:  # noqa: ARG002
        assert argv[0] == "vcgencmd"
        if isinstance(self.commands, int):
            raise OSError(self.commands, "refused")
        return self.commands.get(" ".join(argv[1:]), 'error=1 error_msg="Command not registered"').encode()

    def glob(self, pattern: str) -> list[str]:
        return [path for path in self.files if path == pattern]

    def read(self, path: str) -> bytes:
        return self.files[path]


def firmware(board: Board) -> Firmware:
    return Firmware(board)  # type: ignore[arg-type]


def test_the_mailbox_is_asked_without_a_mask_which_would_clear_the_kept_bits() -> None:
    board = Board({mailbox.GET_THROTTLED: 0x50005, mailbox.GET_CLOCK_MEASURED: 600_117_184})
    source = firmware(board)
    coverage = source.probe()
    values = source.read()
    assert {channel.source for channel in coverage.channels} == {"/dev/vcio"}
    assert values["throttle.raw.firmware"] == 0x50005
    assert values["cpu.clock_delivered.arm"] == 600_117_184
    words = [request for path, request in board.requests if struct.unpack_from("<I", request, 8)[0] == 0x00030046]
    assert words
    assert all(struct.unpack_from("<I", request, 20)[0] == 0 for request in words)


@pytest.mark.parametrize("place", range(4))
def test_every_bit_of_the_word_is_a_flag_of_its_own(place: int) -> None:
    for shift, prefix in ((0, "throttle."), (16, "throttle.latched.")):
        source = firmware(Board({mailbox.GET_THROTTLED: 1 << (place + shift)}))
        source.probe()
        flags = {name for name, value in source.read().items() if value == 1 and name != "throttle.raw.firmware"}
        assert flags == {f"{prefix}{_REASONS[place]}.firmware"}


def test_without_a_right_to_the_mailbox_the_command_is_asked_and_less_often() -> None:
    answers = {"get_throttled": "throttled=0x80008\n", "measure_clock arm": "frequency(0)=1200126000\n"}
    source = firmware(Board(errno.EACCES, answers))
    assert source.probe().state == "read"
    values = source.read()
    assert values["throttle.softlimit.firmware"] == 1
    assert values["throttle.undervoltage.firmware"] == 0
    assert values["cpu.clock_delivered.arm"] == 1_200_126_000
    assert "temp.firmware" not in values  # this firmware does not know the command
    assert source.rate_hz == 1.0


def test_the_kernels_copy_is_hexadecimal_without_saying_so() -> None:
    source = firmware(Board(files={_KERNEL_WORD: b"50005\n"}))
    coverage = source.probe()
    assert source.read()["throttle.raw.firmware"] == 0x50005
    assert {channel.window_ns for channel in coverage.channels} == {2_000_000_000}


def test_a_right_that_is_missing_everywhere_is_named_with_its_group() -> None:
    coverage = firmware(Board(errno.EACCES)).probe()
    assert (coverage.state, coverage.reason) == (
        "denied",
        "no permission for /dev/vcio; add the agent's user to group video",
    )


def test_another_board_has_no_such_firmware() -> None:
    source = firmware(Board())
    assert source.probe().state == "absent"
    assert source.read() == {}


def test_an_answer_that_is_lost_or_garbled_is_unread_and_never_0() -> None:
    board = Board(errno.ENOENT, {"get_throttled": "throttled=0x0"})
    source = firmware(board)
    source.probe()
    board.commands = {"get_throttled": "thr\0ttled"}
    assert set(source.read().values()) == {Unread("EILSEQ")}
    board.commands = errno.ETIMEDOUT
    assert set(source.read().values()) == {Unread("ETIMEDOUT")}


@pytest.mark.parametrize(
    ("board", "word", "clock_hz"),
    [
        ("rpi5-bookworm", 0x0, 2_400_016_384),
        ("rpi4-undervolt", 0x50005, 600_117_184),
        ("rpi3bplus-softlimit", 0x80008, 1_200_126_000),
    ],
)
def test_recorded_boards_give_their_word_and_the_clock_that_is_delivered(board: str, word: int, clock_hz: int) -> None:
    tree = open_tree(board, 0)
    source = Firmware(tree)
    assert source.probe().state == "read"
    values = source.read()
    assert values["throttle.raw.firmware"] == word
    assert values["cpu.clock_delivered.arm"] == clock_hz
    assert isinstance(values["temp.firmware"], int)
    tree.close()


@pytest.mark.parametrize("board", ["jetson-orin-nano-jp621", "generic-x86-rapl", "container-bare"])
def test_boards_of_others_have_none(board: str) -> None:
    assert Firmware(open_tree(board, 0)).probe().state == "absent"
