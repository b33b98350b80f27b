"""Power of a Raspberry Pi 5, out of the answer of its firmware."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.pmic import Pmic
from backbench.agent.sensors.trees import open_tree


class Board:
    """Answers `vcgencmd pmic_read_adc`, or refuses with an errno."""

    simulated = False

    def __init__(self, answer: str | int) -> None:
        self.answer = answer

    def ioctl(self, path: str, request: int, buffer: bytearray) -> None:  # noqa: ARG002
        raise OSError(errno.EACCES if self.answer == errno.EACCES else errno.ENOENT, "refused", path)

    def run(self, argv: Sequence[str], timeout_s: float = 1.0) -> bytes:  # noqa: ARG002
        if isinstance(self.answer, int):
            raise OSError(self.answer, "refused")
        return self.answer.encode()


def pmic(board: Board) -> Pmic:
    return Pmic(board)  # type: ignore[arg-type]


def test_the_recorded_board_takes_what_its_twelve_outputs_and_the_fit_say() -> None:
    source = Pmic(open_tree("rpi5-bookworm", 0))
    channels = {channel.name: channel for channel in source.probe().channels}
    values = source.read()
    rails = [value for name, value in values.items() if name.startswith("power.rail.")]
    assert len(rails) == 12
    assert sum(value for value in rails if isinstance(value, int)) == pytest.approx(5922, abs=6)
    assert values["power.total"] == pytest.approx(7369, abs=1)
    assert values["power.input"] == 4924  # 4.9245 V, rounded to even
    assert values["power.rail.VDD_CORE"] == 4501
    assert (channels["power.total"].scope, channels["power.total"].method) == ("pmic_rails", "estimated")
    assert channels.keys() == values.keys()


@pytest.mark.parametrize("board", ["rpi4-undervolt", "rpi3bplus-softlimit", "jetson-thor-jp71", "container-bare"])
def test_boards_without_such_a_chip_have_no_power_at_all(board: str) -> None:
    source = Pmic(open_tree(board, 0))
    assert source.probe().state == "absent"
    assert source.read() == {}


def test_an_older_board_says_that_only_a_pi_5_has_one() -> None:
    coverage = pmic(Board('error=1 error_msg="Command not registered"')).probe()
    assert coverage.reason == "this board has no power sensor; only a Raspberry Pi 5 has one"


def test_a_missing_right_is_named() -> None:
    coverage = pmic(Board(errno.EACCES)).probe()
    assert coverage.state == "denied"
    assert "group video" in coverage.reason


def test_an_output_at_rest_is_0_and_one_that_is_missing_makes_the_total_unread() -> None:
    currents = "A_A current(0)=1.00000000A\nB_A current(1)=0.00000000A\n"
    whole = currents + "A_V volt(2)=2.0V\nB_V volt(3)=3.0V\nEXT5V_V volt(4)=5.1V"
    board = Board(whole)
    source = pmic(board)
    source.probe()
    assert source.read() == {
        "power.rail.A": 2000, "power.rail.B": 0, "power.total": round(2000 * 1.1451 + 587.9), "power.input": 5100,
    }  # fmt: skip
    board.answer = whole.replace("B_V", "garbage")
    values = source.read()
    assert values["power.rail.A"] == 2000
    assert values["power.rail.B"] == values["power.total"] == Unread("EILSEQ")
    board.answer = errno.ETIMEDOUT
    assert set(source.read().values()) == {Unread("ETIMEDOUT")}
