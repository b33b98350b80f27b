"""What a device says reaches the terminal as text, and never as an order to it."""

from __future__ import annotations

import pytest
from rich.table import Table
from rich.text import Text

from backbench.controller.cli.output import harmless, print_answer, print_line, print_note

HOSTILE = "Orin\x1b]0;mine\x07\x1b[2J\x9b31m\x7f"
SHOWN = "Orin\ufffd]0;mine\ufffd\ufffd[2J\ufffd31m\ufffd"


def test_text_that_only_prints_stays_as_it_is() -> None:
    text = "46.1 °C, 日本, café\n\ttable"
    assert harmless(text) == text


def test_no_line_carries_an_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(HOSTILE)
    print_note(HOSTILE)
    said = capsys.readouterr()
    assert said.out == f"{SHOWN}\n"
    assert said.err == f"backbench: {SHOWN}\n"


def test_no_table_carries_one_and_its_own_colours_stay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    table = Table("device")
    table.add_row(HOSTILE)
    print_answer(table, Text("over", style="red"))
    out = capsys.readouterr().out
    assert "]0;mine" in out
    assert "\x1b]0" not in out
    assert "\x1b[2J" not in out
    assert "\x1b[31mover" in out


def test_what_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("remedy")
    table.add_row("pip install 'backbench[jtop]' :warning:")
    print_answer("pip install 'backbench[agent-gpu]'", table)
    out = capsys.readouterr().out
    assert "'backbench[agent-gpu]'" in out
    assert "'backbench[jtop]' :warning:" in out
