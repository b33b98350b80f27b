"""The agent's log, as people, journald and machines read it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbench.agent.logs import JournalFormatter, LastError, configure

SPEAKS = """
import logging, os, sys
if sys.argv[2] == "journal":
    found = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
from backbench.agent.logs import configure
configure("info", sys.argv[1])
log = logging.getLogger("backbench.agent.test")
log.info("run %s starts", 7, extra={"run_id": "r7"})
log.debug("not said")
try:
    raise ValueError("broken")
except ValueError:
    log.exception("a mistake")
"""


def said(form: str, journal: bool = False) -> list[str]:
    """The lines that a process of its own writes to its standard error."""
    command = [sys.executable, "-c", SPEAKS, form, "journal" if journal else ""]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr.splitlines()


def test_text_is_for_people() -> None:
    lines = said("text")
    assert lines[:2] == ["INFO backbench.agent.test: run 7 starts", "ERROR backbench.agent.test: a mistake"]
    assert lines[-1] == "ValueError: broken"


def test_under_systemd_every_line_begins_with_its_priority_and_has_no_time() -> None:
    lines = said("text", journal=True)
    assert lines[:2] == ["<6>backbench.agent.test: run 7 starts", "<3>backbench.agent.test: a mistake"]
    assert all(line.startswith("<3>") for line in lines[1:])
    assert lines[-1] == "<3>ValueError: broken"


def test_another_stream_than_the_journal_s_gets_no_priorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    with (tmp_path / "log").open("w") as stream:
        configure("info", "text", stream)
        logging.getLogger("backbench.agent.test").warning("here")
    assert (tmp_path / "log").read_text() == "WARNING backbench.agent.test: here\n"


def test_json_is_one_object_a_line_with_what_was_given_beside_the_message() -> None:
    start, mistake = map(json.loads, said("json"))
    assert start.pop("time").endswith("+00:00")
    assert start == {"level": "info", "logger": "backbench.agent.test", "message": "run 7 starts", "run_id": "r7"}
    assert mistake["exception"].endswith("ValueError: broken")
    assert mistake["level"] == "error"


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_priorities_are_those_of_syslog(level: int, priority: int) -> None:
    record = logging.LogRecord("x", level, "", 0, "one\ntwo", (), None)
    assert JournalFormatter().format(record) == f"<{priority}>x: one\n<{priority}>two"


def test_the_newest_error_is_kept_and_nothing_else() -> None:
    log = logging.getLogger("backbench.agent.test")
    with LastError() as last:
        log.warning("a warning")
        assert (last.message, last.unix_ns) == ("", None)
        log.error("first %s", "error")
        log.error("second error")
        assert last.message == "second error"
        assert last.unix_ns is not None
    log.error("after it")
    assert last.message == "second error"


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_takes_what_is_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("backbench.agent.test").info("here", extra={"path": Path("/x")})
    assert json.loads(stream.getvalue())["path"] == "/x"
    assert capsys.readouterr().err == ""
