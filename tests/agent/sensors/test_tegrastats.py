"""Lines of tegrastats as boards of every JetPack print them."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.tegrastats import Tegrastats, parse
from backbench.agent.sensors.trees import open_tree

NANO = (
    "RAM 331/3964MB (lfb 758x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [1%@102,0%@102,off,off]"
    " EMC_FREQ 3%@204 GR3D_FREQ 12%@76 APE 25 PLL@20.5C CPU@22C PMIC@100C GPU@21.5C AO@28C thermal@21.75C"
    " POM_5V_IN 933/933 POM_5V_GPU 0/0 POM_5V_CPU 84/105"
)
XAVIER = (
    "RAM 408/15823MB (lfb 3702x4MB) SWAP 0/7911MB (cached 0MB) CPU [2%@1190,0%@1190] EMC_FREQ 0%@2133 GR3D_FREQ 4%@1377"
    " APE 150 MTS fg 0% bg 0% AO@26.5C GPU@28C iwlwifi@30C Tdiode@31.25C PMIC@100C AUX@27C CPU@28C thermal@27.45C"
    " Tboard@27C GPU 1155/1155 CPU 385/385 SOC 2502/2502 CV 0/0 VDDRQ 192/192 SYS5V 2692/2692"
)
ORIN_7_2 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [0%@729,off] EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300]"
    " NVENC0 off APE 174 cpu@52.968C/52.968C soc2@48.406C/48.406C gpu@47.625C/47.625C"
    " VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)


def test_a_nano_of_jetpack_4_has_bare_milliwatts_and_no_date() -> None:
    values = parse(NANO)
    assert values["emc.util"] == 30
    assert values["emc.clock"] == 204_000_000
    assert values["tegrastats.gpu.util"] == 120
    assert values["tegrastats.power.rail.POM_5V_IN"] == 933
    assert values["tegrastats.power.rail.POM_5V_GPU"] == 0
    assert values["tegrastats.mem.used"] == 331 << 20
    assert "tegrastats.temp.pmic" not in values
    assert not {"tegrastats.power.rail.RAM", "tegrastats.power.rail.SWAP"} & values.keys()


def test_rails_with_the_names_of_parts_are_told_from_temperatures_of_the_same_name() -> None:
    values = parse(XAVIER)
    assert values["tegrastats.power.rail.GPU"] == 1155
    assert values["tegrastats.temp.gpu"] == 28_000
    assert values["tegrastats.power.rail.SYS5V"] == 2692


def test_jetpack_7_2_has_three_powers_two_temperatures_and_no_swap() -> None:
    values = parse(ORIN_7_2)
    assert values["tegrastats.power.rail.VIN_SYS_5V0"] == 5500
    assert values["tegrastats.temp.cpu"] == 52_968
    assert values["tegrastats.gpu.clock"] == 1_300_000_000


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        ("jetson-nano-jp451", {"emc.util": 0, "tegrastats.gpu.util": 350, "tegrastats.power.rail.POM_5V_IN": 5607}),
        ("jetson-xavier-nx-jp512", {"emc.util": 20, "emc.clock": 204_000_000, "tegrastats.power.rail.VDD_IN": 2763}),
        ("jetson-agx-orin-jp51", {"tegrastats.temp.cpu": 44_562, "tegrastats.power.rail.VDD_GPU_SOC": 2340}),
        ("jetson-orin-nano-jp621", {"emc.util": 610, "tegrastats.gpu.util": 990, "tegrastats.gpu.clock": 612_000_000}),
        ("jetson-thor-jp71", {"emc.util": 0, "tegrastats.power.rail.VDD_GPU": 0}),
    ],
)
def test_recorded_boards_are_read_through_the_command(board: str, expected: dict[str, int]) -> None:
    source = Tegrastats(open_tree(board, 0))
    units = {channel.name: channel.unit for channel in source.probe().channels}
    values = source.read()
    assert {name: values[name] for name in expected} == expected
    assert values.keys() == units.keys()
    assert units["emc.util"] == "permille"
    source.close()
    source.close()


def test_what_is_off_or_gated_is_left_out() -> None:
    orin = parse("GR3D_FREQ 0%@[0,0] CV0@-256C CPU@44.562C GPU@-256C NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW")
    assert orin == {
        "tegrastats.gpu.util": 0,
        "tegrastats.temp.cpu": 44_562,
        "tegrastats.power.rail.VDDQ_VDD2_1V8AO": 301,
    }
    assert parse("GR3D_FREQ @[0,0,0] NVENC0_FREQ @0") == {}
    assert parse("") == parse("\0\0 nonsense 12/x") == {}


class Board:
    """A tegrastats that prints the given lines, one a call, and raises what is an errno."""

    simulated = False

    def __init__(self, lines: Sequence[bytes | int | None]) -> None:
        self.lines = list(lines)
        self.closed = 0

    def glob(self, pattern: str) -> list[str]:  # noqa: ARG002
        return []

    def stream(self, argv: Sequence[str]) -> Board:
        assert argv[0] == "tegrastats"
        if self.lines and self.lines[0] == errno.ENOENT:
            raise OSError(errno.ENOENT, "not installed")
        return self

    def latest(self) -> bytes | None:
        line = self.lines.pop(0)
        if isinstance(line, int):
            raise OSError(line, "ended")
        return line

    def close(self) -> None:
        self.closed += 1


def test_between_two_lines_nothing_is_read_and_an_ended_program_is_unread() -> None:
    board = Board([NANO.encode(), None, b"EMC_FREQ 5%@408", errno.EPIPE])
    source = Tegrastats(board)  # type: ignore[arg-type]
    assert source.probe().state == "read"
    assert set(source.read().values()) == {Unread("EAGAIN")}
    values = source.read()
    assert values["emc.util"] == 50
    assert values["tegrastats.temp.cpu"] == Unread("ENODATA")
    assert set(source.read().values()) == {Unread("EPIPE")}
    source.close()
    assert board.closed == 1


def test_where_it_is_not_installed_it_is_absent() -> None:
    coverage = Tegrastats(Board([errno.ENOENT])).probe()  # type: ignore[arg-type]
    assert (coverage.state, coverage.reason) == ("absent", "tegrastats is not installed; only a Jetson has it")
    assert Tegrastats(open_tree("rpi5-bookworm", 0)).probe().state == "absent"
