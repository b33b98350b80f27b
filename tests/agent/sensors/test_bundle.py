"""A recorded board is one text file; what is wrong with one is said with its line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.bundle import BUNDLE_BYTES, Bundle, BundleTree, Content, parse, read_bundle, render, unpack
from backbench.agent.sensors.tree import Tree
from backbench.domain.errors import InvalidArgument

TEXT = """\
#! source: made up
## proc/device-tree/compatible +nul
raspberrypi,5-model-b
brcm,bcm2712
## sys/class/thermal/thermal_zone0/temp
46062
## sys/class/thermal/thermal_zone1/temp !EAGAIN
## cmd/vcgencmd measure_clock arm
frequency(0)=2400016384
#! a comment in between
## sys/class/hwmon/hwmon0/empty
## etc/nv_tegra_release
# R36 (release), REVISION: 4.4

# KERNEL_VARIANT: oot
"""
FILES: dict[str, Content] = {
    "proc/device-tree/compatible": b"raspberrypi,5-model-b\0brcm,bcm2712\0",
    "sys/class/thermal/thermal_zone0/temp": b"46062\n",
    "sys/class/thermal/thermal_zone1/temp": Unread("EAGAIN"),
    "cmd/vcgencmd measure_clock arm": b"frequency(0)=2400016384\n",
    "sys/class/hwmon/hwmon0/empty": b"",
    "etc/nv_tegra_release": b"# R36 (release), REVISION: 4.4\n\n# KERNEL_VARIANT: oot\n",
}

_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0\n\r +!"), min_size=1, max_size=20)
_LINES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), max_size=40).filter(
        lambda line: not line.startswith(("## ", "#!"))
    ),
    max_size=4,
)
_CONTENTS = st.one_of(
    _LINES.map(lambda lines: "".join(f"{line}\n" for line in lines).encode()),
    _LINES.filter(bool).map(lambda lines: "".join(f"{line}\0" for line in lines).encode()),
    st.sampled_from(["EAGAIN", "EACCES", "ENODEV", "EIO"]).map(Unread),
)
_PATHS = st.lists(_NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map(
    lambda parts: "/".join(("d", *parts, "f"))
)


def no_folder_is_a_file(files: dict[str, Content]) -> bool:
    return not any(other.startswith(f"{path}/") for path in files for other in files)


_BUNDLES = st.builds(
    Bundle,
    st.just("made-up"),
    st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1), min_size=1, max_size=2).map(
        tuple
    ),
    st.dictionaries(_PATHS, _CONTENTS, max_size=5).filter(no_folder_is_a_file),
)


def test_files_nul_errors_and_commands_are_told_apart() -> None:
    bundle = parse(TEXT, "pi")
    assert bundle.files == FILES
    assert bundle.provenance == ("source: made up", "a comment in between")


def test_a_bundle_that_went_through_windows_is_the_same() -> None:
    assert parse(TEXT.replace("\n", "\r\n").encode(), "pi").files == FILES


@settings(max_examples=150, deadline=None)
@given(bundle=_BUNDLES)
def test_what_is_rendered_is_parsed_back(bundle: Bundle) -> None:
    assert parse(render(bundle), bundle.name) == bundle


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.binary(max_size=300), st.text(max_size=300)))
def test_garbage_is_refused_in_one_line_or_taken(text: bytes | str) -> None:
    try:
        bundle = parse(text, "garbage")
    except InvalidArgument as error:
        assert len(error.message.splitlines()) == 1
    else:
        assert parse(render(bundle), "garbage") == bundle


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_bundle_is_refused_or_taken_and_nothing_else(data: st.DataObject) -> None:
    lines = TEXT.split("\n")
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place] = data.draw(
        st.sampled_from(["##", "## ", "## /", "#!", "## a/../b", "## a +", "\0", "## sys", "## etc/"])
    )
    try:
        parse("\n".join(lines), "damaged")
    except InvalidArgument as error:
        assert f"damaged, line {place + 1}" in error.message or "line" in error.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("## a\n1\n", "board, line 1: nothing says where it comes from"),
        ("#!\n## a\n1\n", "board, line 1: nothing says where it comes from"),
        ("", "board, line 1: nothing says where it comes from"),
        ("#! x\nearly\n## a\n", "board, line 2: content before the first path"),
        ("#! x\n## a +zip\n1\n", 'board, line 2: unknown flag "+zip"'),
        ("#! x\n## a +\n1\n", 'board, line 2: unknown flag "+"'),
        ("#! x\n## a !ENOTHING\n", 'board, line 2: unknown errno "ENOTHING"'),
        ("#! x\n## a !errorcode\n", 'board, line 2: unknown errno "errorcode"'),
        ("#! x\n## a !\n", 'board, line 2: unknown errno ""'),
        ("#! x\n## a !EAGAIN\n1\n", 'board, line 3: content after "a"'),
        ("#! x\n## a\n1\n## b\n2\n## a\n3\n", 'board, line 6: "a" was in line 2 already'),
        ("#! x\n## a !EIO\n## a\n", 'board, line 3: "a" was in line 2 already'),
        ("#! x\n## a\n1\n## a/b\n", 'board, line 4: "a/b" is below "a", which is a file in line 2'),
        ("#! x\n## a/b\n1\n## a\n", 'board, line 4: "a" is a folder in line 2'),
        ("#! x\n## /etc/passwd\n", 'board, line 2: "/etc/passwd" leaves the root'),
        ("#! x\n## sys/../../etc\n", 'board, line 2: "sys/../../etc" leaves the root'),
        ("#! x\n## a/./b\n", 'board, line 2: "a/./b" leaves the root'),
        ("#! x\n## a//b\n", 'board, line 2: "a//b" leaves the root'),
        ("#! x\n## a/\n", 'board, line 2: "a/" leaves the root'),
        ("#! x\n## .errors\n", 'board, line 2: ".errors" is no path'),
        ("#! x\n## \n", "board, line 2: a path has to follow ##"),
        (f"#! x\n## {'a' * 300}\n", "is too long"),
        ("#! x\n## a\n1\0002\n", "board, line 3: a NUL"),
        (b"#! x\n## a\n\xff\n", "board, line 3: not UTF-8 text"),
        ("#! x\n## a\n" + "1" * BUNDLE_BYTES, "board is too big"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse(text, "board")
    assert message in raised.value.message
    assert len(raised.value.message.splitlines()) == 1


@pytest.mark.parametrize("content", [b"no end", b"## a path\n", b"#! a comment\n", b"\xff\n", b"a\0b\n", b"a\r\n"])
def test_what_a_bundle_cannot_hold_is_not_rendered(content: bytes) -> None:
    with pytest.raises(InvalidArgument, match='"a/b"'):
        render(Bundle("board", ("x",), {"a/b": content}))


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.bundle", tmp_path):
        with pytest.raises(InvalidArgument, match="cannot be read"):
            read_bundle(path)
    (tmp_path / "bad.bundle").write_text("## a\n")
    with pytest.raises(InvalidArgument, match=r"bad\.bundle, line 1"):
        read_bundle(tmp_path / "bad.bundle")


@pytest.mark.parametrize("unpacked", [False, True])
def test_a_board_in_memory_and_one_in_a_folder_read_alike(unpacked: bool, tmp_path: Path) -> None:
    bundle = parse(TEXT, "pi")
    tree: Tree = unpack(bundle, tmp_path) if unpacked else BundleTree(bundle)
    for path, content in FILES.items():
        if isinstance(content, Unread):
            with pytest.raises(BlockingIOError):
                tree.read(path)
        else:
            assert tree.read(path) == content
    for path, code in {"sys": errno.EISDIR, "sys/class/thermal": errno.EISDIR, "sys/none": errno.ENOENT}.items():
        with pytest.raises(OSError) as raised:
            tree.read(path)
        assert raised.value.errno == code
    assert tree.glob("sys/class/thermal/*/temp") == [f"sys/class/thermal/thermal_zone{zone}/temp" for zone in (0, 1)]
    assert tree.glob("*") == ["cmd", "etc", "proc", "sys"]
    assert tree.glob("sys/class/*") == ["sys/class/hwmon", "sys/class/thermal"]
    assert tree.run(["vcgencmd", "measure_clock", "arm"]) == b"frequency(0)=2400016384\n"
    with pytest.raises(FileNotFoundError):
        tree.run(["vcgencmd", "measure_clock", "v3d"])
    assert tree.simulated
    tree.close()
    tree.close()


def test_a_boards_files_can_be_made_to_fail_and_to_go_away() -> None:
    bundle = parse(TEXT, "pi").having(
        {
            "sys/class/thermal/thermal_zone0/temp": Unread("EACCES"),
            "sys/class/thermal/thermal_zone1/temp": None,
            "cmd/vcgencmd measure_clock arm": Unread("ETIMEDOUT"),
        }
    )
    tree = BundleTree(bundle)
    with pytest.raises(PermissionError):
        tree.read("sys/class/thermal/thermal_zone0/temp")
    with pytest.raises(TimeoutError):
        tree.run(["vcgencmd", "measure_clock", "arm"])
    assert tree.glob("sys/class/thermal/*/temp") == ["sys/class/thermal/thermal_zone0/temp"]
