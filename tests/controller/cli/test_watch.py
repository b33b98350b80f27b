"""`backbench watch` against a real agent, and what it refuses."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "backbench.controller"]
DEADLINE_S = 60.0


def test_it_ends_after_its_time_with_lines_where_nothing_is_a_terminal(here: Any) -> None:
    seen = here("watch", "here", "--seconds", "2.5", "--rate", "5")
    assert seen.err == ""
    assert seen.out.count("\n") >= 1
    assert "witness" in seen.out or "throttled" in seen.out


def test_json_is_one_document_of_all_samples(here: Any) -> None:
    document = here("watch", "here", "--seconds", "2.5", "--json").json
    assert document["schema"] == "backbench.telemetry/1"
    names = [channel["name"] for channel in document["channels"]]
    assert names == sorted(names)
    assert names
    for channel in document["channels"]:
        assert len(channel["time_ns"]) == len(channel["values"]) > 0
        assert channel["unit"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("here", "--rate", "0"), 2, "--rate is 0; it must be between 0.1 and 10"),
        (("here", "--rate", "nan"), 2, "--rate is nan"),
        (("here", "--seconds", "0"), 2, "--seconds is 0"),
        (("here", "--sensor", "nonsense"), 2, "--sensor nonsense: here reads no such source"),
        (("nobody",), 2, "nobody"),
    ],
)
def test_what_cannot_be_watched_is_one_line(here: Any, arguments: tuple[str, ...], status: int, words: str) -> None:
    refused = here("watch", *arguments, status=status)
    assert (refused.out, refused.err.count("\n")) == ("", 1)
    assert words in refused.err


def test_a_device_that_does_not_answer_is_one_line_and_status_3(backbench: Any) -> None:
    backbench("device", "add", "gone", "127.0.0.1:9", "--no-check")
    refused = backbench("watch", "gone", status=3)
    assert (refused.out, refused.err.count("\n")) == ("", 1)
    assert "no agent answers at 127.0.0.1:9" in refused.err


@pytest.mark.usefixtures("here", "interruptible")
def test_an_interrupt_ends_it_with_0(home: Any) -> None:
    environment = {**os.environ, "BACKBENCH_HOME": str(home), "NO_COLOR": "1"}
    process = subprocess.Popen(
        [*COMMAND, "watch", "here", "--rate", "5"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, error) == (0, "")


@pytest.mark.usefixtures("here")
def test_on_a_terminal_one_table_is_kept_up_to_date(home: Any) -> None:
    environment = {**os.environ, "BACKBENCH_HOME": str(home), "TERM": "xterm", "COLUMNS": "120"}
    near, far = pty.openpty()
    try:
        command = [*COMMAND, "watch", "here", "--rate", "5", "--seconds", "3"]
        with subprocess.Popen(command, env=environment, stdin=far, stdout=far, stderr=subprocess.PIPE) as process:
            os.close(far)
            text = _all_of(near)
            assert process.wait(DEADLINE_S) == 0
    finally:
        os.close(near)
    assert text.count("Throttling") >= 2
    assert "\x1b[" in text


def _all_of(terminal: int) -> str:
    """What comes until the other side closes it."""
    parts: list[bytes] = []
    until_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < until_s:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # so a terminal ends
            break
        if not data:
            break
        parts.append(data)
    return b"".join(parts).decode()
