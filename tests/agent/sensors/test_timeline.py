"""A board on which something happens shows at each moment what is so by then."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.bundle import Bundle
from backbench.agent.sensors.timeline import TimelineTree, parse_timeline, read_timeline
from backbench.domain.errors import InvalidArgument

ZONE = "sys/class/thermal/thermal_zone0/temp"
OTHER = "sys/class/thermal/thermal_zone1/temp"
BASE = Bundle("base", ("made up",), {ZONE: b"40000\n", OTHER: Unread("EAGAIN")})
HEAD = 'about = "made up"\nbase = "base"\n'
TEXT = f"""{HEAD}
[[at]]
ms = 2000
errno = {{ "{ZONE}" = "ENODEV" }}
[[at]]
ms = 500
set = {{ "{ZONE}" = "90000\\n", "{OTHER}" = "41000\\n" }}
"""
EPOCH_NS = 10**15


class Clock:
    def __init__(self) -> None:
        self.now_ns = EPOCH_NS

    def __call__(self) -> int:
        return self.now_ns

    def at(self, ms: float) -> None:
        self.now_ns = EPOCH_NS + round(ms * 1e6)


def base(name: str) -> Bundle:
    if name != "base":
        raise InvalidArgument(f'no recorded board is called "{name}"')
    return BASE


def opened(text: str = TEXT) -> tuple[TimelineTree, Clock]:
    clock = Clock()
    return TimelineTree(parse_timeline(text, "made-up", base), EPOCH_NS, clock), clock


def said(tree: TimelineTree, path: str) -> str:
    try:
        return tree.read(path).decode().strip()
    except OSError as error:
        return type(error).__name__


def test_a_change_holds_from_its_moment_on_until_the_next_one() -> None:
    tree, clock = opened()
    seen = []
    for ms in (-1000, 0, 499.999, 500, 1999, 2000, 10**6):
        clock.at(ms)
        seen.append((said(tree, ZONE), said(tree, OTHER)))
    assert seen == [
        ("40000", "BlockingIOError"), ("40000", "BlockingIOError"), ("40000", "BlockingIOError"),
        ("90000", "41000"), ("90000", "41000"), ("OSError", "41000"), ("OSError", "41000"),
    ]  # fmt: skip


def test_a_loop_begins_again_with_the_board_as_it_was_recorded() -> None:
    tree, clock = opened(TEXT.replace('base = "base"', 'base = "base"\nloop_ms = 3000'))
    for ms, value in ((2999, "OSError"), (3000, "40000"), (3500, "90000"), (6400, "40000")):
        clock.at(ms)
        assert said(tree, ZONE) == value


def test_a_file_that_comes_later_is_not_there_before() -> None:
    tree, clock = opened(HEAD + '[[at]]\nms = 100\nset = { "sys/class/thermal/thermal_zone2/temp" = "1\\n" }\n')
    assert len(tree.glob("sys/class/thermal/*/temp")) == 2
    clock.at(100)
    assert len(tree.glob("sys/class/thermal/*/temp")) == 3


def test_commands_change_as_files_do() -> None:
    tree, clock = opened(HEAD + '[[at]]\nms = 5\nset = { "cmd/tegrastats" = "RAM 1/2MB\\n" }\n')
    with pytest.raises(FileNotFoundError):
        tree.stream(["tegrastats", "--interval", "1000"])
    clock.at(5)
    assert tree.stream(["tegrastats", "--interval", "1000"]).latest() == b"RAM 1/2MB"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("about = ", "made-up is no TOML"),
        ('base = "base"', "made-up: nothing says where it comes from"),
        ('about = "x"', "made-up: base has to name a bundle"),
        ('about = "x"\nbase = 5', "made-up: base has to name a bundle"),
        ('about = "x"\nbase = "amiga"', 'made-up: base: no recorded board is called "amiga"'),
        (HEAD + "loop = 5", 'made-up: unknown key "loop"'),
        (HEAD + "loop_ms = 0", "made-up: loop_ms has to be a whole number"),
        (HEAD + "at = 5", "made-up: moments are written as [[at]]"),
        (HEAD + "at = [5]", "made-up, entry 1 of [[at]] is no table"),
        (HEAD + "[[at]]\nms = 1\n[[at]]\nms = -1", "made-up, entry 2 of [[at]]: ms has to be"),
        (HEAD + "[[at]]\nms = true", "made-up, entry 1 of [[at]]: ms has to be"),
        (HEAD + "[[at]]\nms = 1.5", "made-up, entry 1 of [[at]]: ms has to be"),
        (HEAD + "[[at]]", "made-up, entry 1 of [[at]]: ms has to be"),
        (HEAD + '[[at]]\nms = 1\nput = { "a" = "1" }', 'made-up, entry 1 of [[at]]: unknown key "put"'),
        (HEAD + '[[at]]\nms = 1\nset = { "a" = 1 }', "made-up, entry 1 of [[at]]: set has to be a table of texts"),
        (HEAD + '[[at]]\nms = 1\nset = "a"', "made-up, entry 1 of [[at]]: set has to be a table of texts"),
        (HEAD + '[[at]]\nms = 1\nset = { "../a" = "1" }', 'made-up, entry 1 of [[at]]: "../a" leaves the root'),
        (HEAD + '[[at]]\nms = 1\nerrno = { "a" = "EWHAT" }', 'made-up, entry 1 of [[at]]: unknown errno "EWHAT"'),
        (
            HEAD + '[[at]]\nms = 1\nset = { "a" = "1" }\nerrno = { "a" = "EIO" }',
            'made-up, entry 1 of [[at]]: "a" is both in set and in errno',
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_entry(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse_timeline(text, "made-up", base)
    assert message in raised.value.message
    assert len(raised.value.message.splitlines()) == 1


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(max_size=200), st.text(max_size=60).map(lambda tail: f"{HEAD}[[at]]\nms = 1\n{tail}")))
def test_garbage_is_refused_or_taken_and_nothing_else(text: str) -> None:
    try:
        parse_timeline(text, "garbage", base)
    except InvalidArgument:
        return


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    for path, message in ((tmp_path / "no.toml", "cannot be read"), (tmp_path / "bad.toml", "not UTF-8")):
        with pytest.raises(InvalidArgument, match=message):
            read_timeline(path, base)
