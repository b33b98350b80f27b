"""This machine's files are read as they are now; a folder in its place is never left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backbench.agent.sensors import mailbox
from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.bundle import Bundle, BundleTree, unpack
from backbench.agent.sensors.tree import Stream
from backbench.agent.sensors.trees import LiveTree, RootTree, expand, open_tree
from backbench.domain.errors import InvalidArgument

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")


@pytest.fixture
def tree() -> Iterator[LiveTree]:
    live = LiveTree()
    yield live
    live.close()


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def error_of(failing: Callable[..., object], *arguments: object) -> int | None:
    with pytest.raises(OSError) as raised:
        failing(*arguments)
    return raised.value.errno


def board(files: dict[str, bytes | Unread]) -> BundleTree:
    return BundleTree(Bundle("board", ("made up",), files))


def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def test_a_file_that_is_read_again_shows_what_it_says_now_through_one_descriptor(tree: LiveTree) -> None:
    before = descriptors()
    first = tree.read("proc/uptime")
    until(lambda: tree.read("proc/uptime") != first)
    assert len(descriptors() - before) == 1
    tree.close()
    assert descriptors() == before
    assert tree.read("proc/uptime")


def test_a_file_on_a_disk_may_be_replaced_by_another(tree: LiveTree, tmp_path: Path) -> None:
    file, path = tmp_path / "status", str(tmp_path / "status").lstrip("/")
    for text in (b"pmode:0001", b"pmode:0002", b"pmode:0003"):
        (tmp_path / "new").write_bytes(text)
        (tmp_path / "new").replace(file)
        assert tree.read(path) == text


def test_a_process_that_has_ended_is_an_error_and_not_its_last_state(tree: LiveTree) -> None:
    process = subprocess.Popen(SLEEPER, stdout=subprocess.PIPE)
    assert process.stdout is not None
    path = f"proc/{process.pid}/stat"
    for _ in range(3):
        assert tree.read(path).startswith(f"{process.pid} ".encode())
    process.kill()
    process.wait()
    process.stdout.close()
    assert error_of(tree.read, path) in (errno.ENOENT, errno.ESRCH)
    assert error_of(tree.read, path) == errno.ENOENT


def test_no_more_descriptors_are_kept_than_a_process_may_have(tree: LiveTree) -> None:
    before = len(descriptors())
    paths = [path for path in tree.glob("proc/sys/*/*") if Path(f"/{path}").is_file()][:700]
    paths += tree.glob("proc/sys/net/ipv4/*")
    for _ in range(2):
        for path in paths:
            try:
                tree.read(path)
            except OSError:
                continue
    assert len(descriptors()) - before <= 512


@pytest.mark.parametrize(
    ("path", "code"), [("nowhere", errno.ENOENT), ("proc/\0", errno.EINVAL), ("proc", errno.EISDIR)]
)
def test_what_cannot_be_read_is_an_oserror(tree: LiveTree, path: str, code: int) -> None:
    assert error_of(tree.read, path) == code


def test_a_file_without_an_end_is_refused(tree: LiveTree) -> None:
    assert error_of(tree.read, "dev/zero") == errno.EFBIG


def test_a_file_of_many_pages_is_read_whole(tree: LiveTree, tmp_path: Path) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(40_000))
    (tmp_path / "long").write_bytes(lines)
    assert RootTree(tmp_path).read("long") == lines
    for _ in range(3):
        maps = tree.read("proc/self/maps")
        assert len(maps) > 2 * 4096
        assert maps.count(b"[stack]") == 1


def test_numbers_in_names_are_in_the_order_of_numbers() -> None:
    paths = {f"sys/class/thermal/cooling_device{number}/type": b"x\n" for number in (10, 2, 1, 0, 21, 3)}
    found = board(dict(paths)).glob("sys/class/thermal/cooling_device*/type")
    assert [int(path.split("/")[3].removeprefix("cooling_device")) for path in found] == [0, 1, 2, 3, 10, 21]


def test_a_star_stands_for_a_part_of_one_name_and_for_no_hidden_one(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/.hidden/c", "a/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    root = RootTree(tmp_path)
    assert root.glob("a/*") == ["a/b", "a/d"]
    assert root.glob("*/*/c") == ["a/b/c"]
    assert root.glob("a/b/c") == ["a/b/c"]
    assert root.glob("a/.h*/c") == ["a/.hidden/c"]
    assert root.glob("*") == ["a"]
    assert root.glob("a/nothing/*") == []


def test_a_link_below_a_root_stays_below_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"outside")
    root = tmp_path / "root"
    (root / "sys/class").mkdir(parents=True)
    (root / "sys/devices").mkdir()
    (root / "sys/devices/temp").write_bytes(b"46062\n")
    for name, target in {
        "sys/class/absolute": "/sys/devices",
        "sys/class/relative": "../devices",
        "sys/class/climbing": "../../../../../../../../sys/devices",
        "sys/class/outside": str(secret),
        "sys/class/above": "../../../secret",
        "sys/class/circle": "circle",
    }.items():
        (root / name).symlink_to(target)
    tree = RootTree(root)
    for name in ("absolute", "relative", "climbing"):
        assert tree.read(f"sys/class/{name}/temp") == b"46062\n"
    assert tree.glob("sys/class/*/temp") == [f"sys/class/{name}/temp" for name in ("absolute", "climbing", "relative")]
    for path in ("sys/class/outside", "sys/class/above", "../secret", "sys/class/../../../secret"):
        assert error_of(tree.read, path) == errno.ENOENT
    assert error_of(tree.read, "sys/class/circle") == errno.ELOOP


def test_processes_are_this_machines_even_where_the_board_is_a_recording(tmp_path: Path) -> None:
    trees = (BundleTree(Bundle("board", ("made up",), {})), RootTree(tmp_path))
    for tree in trees:
        assert tree.read(f"proc/{os.getpid()}/stat").startswith(f"{os.getpid()} ".encode())
        assert tree.read("proc/self/stat").startswith(f"{os.getpid()} ".encode())
        assert tree.glob(f"proc/{os.getpid()}/task/*/stat")
        assert error_of(tree.read, "proc/meminfo") == errno.ENOENT
        tree.close()


def test_a_command_gives_what_it_prints_whatever_its_exit_status(tree: LiveTree) -> None:
    script = "import os, sys; print(os.environ['LC_ALL'], sys.argv[1]); sys.stderr.write('no'); sys.exit(3)"
    assert tree.run([sys.executable, "-c", script, "a; b"], 10.0) == b"C a; b\n"


def test_a_command_that_is_not_there_or_does_not_end_is_an_oserror(tree: LiveTree, tmp_path: Path) -> None:
    refused = tmp_path / "refused"
    refused.write_text("#!/bin/sh\n")
    assert error_of(tree.run, ["no-such-command"]) == errno.ENOENT
    assert error_of(tree.run, [str(refused)]) == errno.EACCES
    assert error_of(tree.run, ["a\0b"]) == errno.EINVAL
    assert error_of(tree.run, SLEEPER, 0.2) == errno.ETIMEDOUT


def test_a_command_is_ended_with_all_that_it_started(tree: LiveTree, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    assert error_of(tree.run, ["sh", "-c", f"sleep 600 & echo $! > {file}; wait"], 0.5) == errno.ETIMEDOUT
    pid = int(file.read_text())

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    until(gone)


def latest(stream: Stream) -> bytes:
    lines: list[bytes] = []

    def came() -> bool:
        if (line := stream.latest()) is not None:
            lines.append(line)
        return bool(lines)

    until(came)
    return lines[-1]


def test_of_a_command_that_goes_on_the_newest_whole_line_is_given(tree: LiveTree) -> None:
    script = "import sys, time; sys.stdout.write('one\\ntwo\\nbegun'); sys.stdout.flush(); time.sleep(600)"
    stream = tree.stream([sys.executable, "-c", script])
    assert latest(stream) == b"two"
    assert stream.latest() is None
    stream.close()
    stream.close()
    assert error_of(stream.latest) == errno.EBADF


def test_a_command_that_has_ended_is_an_error_after_its_last_line(tree: LiveTree) -> None:
    stream = tree.stream([sys.executable, "-c", "print('last')"])
    assert latest(stream) == b"last"

    def ended() -> bool:
        try:
            assert stream.latest() is None
        except OSError as error:
            return error.errno == errno.EPIPE
        return False

    until(ended)
    stream.close()


def test_a_recorded_command_that_goes_on_says_its_line_again_and_again(tmp_path: Path) -> None:
    recorded = board({"cmd/tegrastats": b"RAM 1/2MB\nRAM 2/2MB\n"})
    for tree in (recorded, unpack(Bundle("b", ("x",), {"cmd/tegrastats": b"RAM 2/2MB\n"}), tmp_path)):
        stream = tree.stream(["tegrastats", "--interval", "1000"])
        assert [stream.latest(), stream.latest()] == [b"RAM 2/2MB"] * 2
        stream.close()
        assert error_of(tree.stream, ["jtop"]) == errno.ENOENT


def test_the_mailbox_of_a_recorded_board_answers_what_its_commands_printed(tmp_path: Path) -> None:
    bundle = Bundle(
        "pi",
        ("made up",),
        {
            "cmd/vcgencmd get_throttled": b"throttled=0x50005\n",
            "cmd/vcgencmd measure_clock arm": b"frequency(0)=2400016384\n",
            "cmd/vcgencmd measure_temp": b"temp=61.4'C\n",
        },
    )
    for tree in (BundleTree(bundle), unpack(bundle, tmp_path)):
        assert mailbox.throttle_word_by_mailbox(tree) == 0x50005
        assert mailbox.arm_clock_by_mailbox(tree) == 2_400_016_384
        assert mailbox.command_by_mailbox(tree, "measure_temp") == "temp=61.4'C"
        assert "not registered" in mailbox.command_by_mailbox(tree, "pmic_read_adc")
        assert error_of(tree.ioctl, "dev/vcio", 1, bytearray(64)) == errno.ENOTTY
        assert error_of(tree.ioctl, "dev/vcio", mailbox.PROPERTY_REQUEST, bytearray(8)) == errno.EINVAL
        assert error_of(tree.ioctl, "dev/mem", mailbox.PROPERTY_REQUEST, bytearray(64)) == errno.ENOENT


@pytest.mark.parametrize(
    ("content", "code"), [(Unread("EACCES"), errno.EACCES), (b"garbage\n", errno.EIO), (b"throttled=0x\n", errno.EIO)]
)
def test_a_mailbox_whose_command_failed_or_printed_garbage_gives_no_word(content: bytes | Unread, code: int) -> None:
    tree = board({"cmd/vcgencmd get_throttled": content})
    assert error_of(mailbox.throttle_word_by_mailbox, tree) == code


def test_a_board_without_that_firmware_has_no_mailbox(tree: LiveTree) -> None:
    assert error_of(mailbox.throttle_word_by_mailbox, board({"proc/meminfo": b"x\n"})) == errno.ENOENT
    if not Path("/dev/vcio").exists():
        assert error_of(mailbox.throttle_word_by_mailbox, tree) == errno.ENOENT


def test_this_machine_is_the_tree_without_a_name() -> None:
    tree = open_tree("", 0)
    assert not tree.simulated
    assert tree.read("proc/meminfo").startswith(b"MemTotal:")
    tree.close()
    with pytest.raises(InvalidArgument, match="no recorded board"):
        open_tree("amiga", 0)


def test_a_pattern_without_a_star_is_a_path_that_has_to_exist() -> None:
    assert expand("a/b", lambda _: (), lambda path: path == "a/b") == ["a/b"]
    assert expand("a/c", lambda _: (), lambda path: path == "a/b") == []
