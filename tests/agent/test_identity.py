"""An agent's id outlives the loss of either place where it is kept; who a device is, is read from every board."""

from __future__ import annotations

import platform
import socket
from pathlib import Path

import pytest

from backbench.agent.identity import kept_device_id, kept_serial_key, read_identity
from backbench.agent.registry import Registry
from backbench.agent.sensors import simulations
from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.bundle import Bundle, BundleTree, read_bundle, unpack
from backbench.agent.sensors.trees import LiveTree
from backbench.domain.device import DeviceIdentity

BUNDLES = Path(simulations.__file__).with_name("bundles")
KEY = bytes(32)
BOARDS = {
    "container-bare": ("generic", "", "", ""),
    "generic-x86-rapl": ("generic", "", "", ""),
    "jetson-agx-orin-jp51": ("jetson-orin", "8.7", "L4T 35.1.0", "5.0.2"),
    "jetson-nano-jp451": ("jetson-nano", "5.3", "L4T 32.5.1", "4.5.1"),
    "jetson-orin-nano-jp621": ("jetson-orin", "8.7", "L4T 36.4.4", "6.2.1"),
    "jetson-thor-jp71": ("jetson-thor", "11.0", "L4T 38.4.0", "7.1"),
    "jetson-xavier-nx-jp512": ("jetson-xavier", "7.2", "L4T 35.4.1", "5.1.2"),
    "rpi3bplus-softlimit": ("raspberry-pi", "", "", ""),
    "rpi4-undervolt": ("raspberry-pi", "", "", ""),
    "rpi5-bookworm": ("raspberry-pi", "", "", ""),
}
"""Family, CUDA compute capability, release, JetPack."""
MODELS = {
    "container-bare": ("", "", None),
    "generic-x86-rapl": ("Generic PC", "", None),
    "jetson-agx-orin-jp51": ("Jetson AGX Orin", "p3701-0000", "tegra234"),
    "jetson-nano-jp451": ("NVIDIA Jetson Nano Developer Kit", "", "tegra210"),
    "jetson-orin-nano-jp621": (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "p3767-0005", "tegra234",
    ),
    "jetson-thor-jp71": ("NVIDIA Jetson AGX Thor Developer Kit", "p3834-0008", "tegra264"),
    "jetson-xavier-nx-jp512": ("NVIDIA Jetson Xavier NX Developer Kit", "p3668-0000", "tegra194"),
    "rpi3bplus-softlimit": ("Raspberry Pi 3 Model B Plus Rev 1.3", "", "bcm2837"),
    "rpi4-undervolt": ("Raspberry Pi 4 Model B Rev 1.4", "", "bcm2711"),
    "rpi5-bookworm": ("Raspberry Pi 5 Model B Rev 1.0", "", "bcm2712"),
}  # fmt: skip
"""Board, module, system on a chip."""


def board(name: str) -> Bundle:
    return read_bundle(BUNDLES / f"{name}.bundle")


def identity_of(bundle: Bundle, key: bytes = KEY) -> DeviceIdentity:
    tree = BundleTree(bundle)
    try:
        return read_identity(tree, key)
    finally:
        tree.close()


def made(files: dict[str, bytes | Unread]) -> DeviceIdentity:
    return identity_of(Bundle("made-up", ("x",), files))


def device_id(folder: Path) -> str:
    registry = Registry(folder / "agent.sqlite")
    try:
        return kept_device_id(folder, registry)
    finally:
        registry.close()


@pytest.mark.parametrize("lost", ["agent.sqlite", "device-id"])
def test_the_id_outlives_the_loss_of_one_of_its_places(tmp_path: Path, lost: str) -> None:
    first = device_id(tmp_path)
    assert device_id(tmp_path) == first
    (tmp_path / lost).unlink()
    assert device_id(tmp_path) == first
    assert (tmp_path / lost).exists()


@pytest.mark.parametrize("garbage", [b"", bytes(33), b"not an id\n"])
def test_a_damaged_file_is_written_anew(tmp_path: Path, garbage: bytes) -> None:
    first = device_id(tmp_path)
    (tmp_path / "device-id").write_bytes(garbage)
    assert device_id(tmp_path) == first
    assert (tmp_path / "device-id").read_text() == f"{first}\n"
    assert (tmp_path / "device-id").stat().st_mode & 0o777 == 0o600


def test_two_agents_have_two_ids(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert device_id(tmp_path / "a") != device_id(tmp_path / "b")


def test_every_shipped_board_is_looked_at() -> None:
    assert {path.stem for path in BUNDLES.glob("*.bundle")} == set(BOARDS) == set(MODELS)


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_is_known_by_its_family_its_chip_and_its_release(name: str) -> None:
    identity = identity_of(board(name))
    assert (identity.family, identity.cuda_architecture, identity.platform_release, identity.jetpack) == BOARDS[name]
    model, module, soc = MODELS[name]
    assert (identity.board, identity.module) == (model, module)
    assert soc is None or identity.soc == soc


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_is_the_same_from_memory_and_from_a_folder(name: str, tmp_path: Path) -> None:
    tree = unpack(board(name), tmp_path)
    assert read_identity(tree, KEY) == identity_of(board(name))
    tree.close()


def test_the_memory_is_the_boards_and_the_rest_is_of_the_machine_on_which_frames_run() -> None:
    identity = identity_of(board("rpi4-undervolt"))
    assert identity.memory_bytes == 3885396 * 1024
    assert identity.kernel == platform.release()
    assert identity.machine == platform.machine()
    assert identity.hostname == socket.gethostname()
    assert made({"proc/sys/kernel/osrelease": b"6.6.31-rpi\n"}).kernel == "6.6.31-rpi"


@pytest.mark.parametrize(
    ("line", "release", "jetpack"),
    [
        ("# R32 (release), REVISION: 7.1, GCID: 1", "L4T 32.7.1", "4.6.1"),
        ("# R36 (release), REVISION: 4.7, GCID: 1", "L4T 36.4.7", "6.2.1"),
        ("# R36 (release), REVISION: 4.99, GCID: 1", "L4T 36.4.99", ""),
        ("# R99 (release), REVISION: 1.0", "L4T 99.1.0", ""),
        ("# R36 (release), REVISION: 4.40", "L4T 36.4.40", ""),
        ("nothing of the kind", "", ""),
        ("", "", ""),
    ],
)
def test_a_release_that_is_newer_than_the_table_has_no_jetpack(line: str, release: str, jetpack: str) -> None:
    identity = made({"proc/device-tree/compatible": b"nvidia,tegra234\0", "etc/nv_tegra_release": line.encode()})
    assert (identity.platform_release, identity.jetpack) == (release, jetpack)


def test_where_the_release_is_hidden_the_package_tells_it() -> None:
    package = "cmd/dpkg-query --showformat=${Version} --show nvidia-l4t-core"
    jetson = {"proc/device-tree/compatible": b"nvidia,tegra234\0", package: b"36.4.4-20250616085344"}
    assert made(dict(jetson)).jetpack == "6.2.1"
    assert made({**jetson, package: b"no packages found"}).platform_release == ""
    assert made({**jetson, package: Unread("ETIMEDOUT")}).platform_release == ""


def test_the_firmwares_version_is_told() -> None:
    pi = {"proc/device-tree/compatible": b"raspberrypi,5-model-b\0brcm,bcm2712\0"}
    answer = b"2024/09/23 14:02:56 \nCopyright (c) 2012 Broadcom\nversion 26826259 (release) (embedded)\n"
    assert made({**pi, "cmd/vcgencmd version": answer}).firmware == "26826259 of 2024/09/23 14:02:56"
    assert made(dict(pi)).firmware == ""
    assert made({**pi, "cmd/vcgencmd version": b"\xff\0"}).firmware == ""
    assert made({"sys/class/dmi/id/bios_version": b"F.21\n"}).firmware == "F.21"


@pytest.mark.parametrize("content", [Unread("EAGAIN"), Unread("EACCES"), b"", b"\0\0\0", b"\xff\xfe\x80", b"9" * 5000])
def test_what_cannot_be_read_or_is_garbage_leaves_an_identity_all_the_same(content: bytes | Unread) -> None:
    for name in ("jetson-orin-nano-jp621", "rpi5-bookworm", "generic-x86-rapl"):
        bundle = board(name)
        for path in bundle.files:
            identity = identity_of(bundle.having({path: content}))
            assert len(identity.board) <= 200
            "".join((identity.board, identity.soc, *identity.conditions.values())).encode()


def test_a_serial_number_is_hidden_by_a_key_of_the_agent(tmp_path: Path) -> None:
    key = kept_serial_key(tmp_path)
    assert kept_serial_key(tmp_path) == key
    assert (tmp_path / "serial-key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").mkdir()
    one, other = (identity_of(board("rpi5-bookworm"), each) for each in (key, kept_serial_key(tmp_path / "other")))
    assert one.serial_hash == identity_of(board("rpi5-bookworm"), key).serial_hash
    assert one.serial_hash != other.serial_hash
    assert len(one.serial_hash) == 16
    assert int(one.serial_hash, 16)
    assert identity_of(board("rpi4-undervolt"), key).serial_hash == ""


def test_a_damaged_key_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "serial-key").write_bytes(b"short")
    key = kept_serial_key(tmp_path)
    assert len(key) == 32
    assert (tmp_path / "serial-key").read_bytes() == key


def test_this_machine_has_an_identity() -> None:
    tree = LiveTree()
    identity = read_identity(tree, KEY)
    tree.close()
    assert identity.kernel == platform.release()
    assert identity.memory_bytes is not None
    assert identity.memory_bytes > 1 << 20
    assert identity.os
    assert identity.family == "generic" or identity.soc
