"""The edge of the process: usage errors, exit statuses, streams."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from backbench.controller import __main__ as entry
from backbench.controller import __version__
from backbench.controller.cli import models as models_command
from backbench.domain.errors import DiskFull, InvalidBudget

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command"),
        (["nope"], "No such command"),
        (["--nope"], "No such option"),
        (["run"], "Missing command"),
        (["run", "nope"], "No such command"),
        (["device", "add", "one"], "ADDRESS"),
        (["profile"], "MODEL"),
        (["profile", "resnet50"], "--device"),
        (["profile", "resnet50", "--device", "pi", "--frames", "many"], "--frames"),
        (["run", "export", "x"], "--to"),
        (["compare"], "RUN"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("backbench: error: ")
    assert said.err.count("\n") == 1
    assert words in said.err
    assert "--help" in said.err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InvalidBudget('budget "x" is wrong'), 2, 'backbench: error: budget "x" is wrong\n'),
        (DiskFull("the disk\nis full"), 3, "backbench: error: the disk is full\n"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), 2, "a.jpg: No such file or directory"),
        (OSError(28, "No space left on device"), 3, "No space left on device"),
        (ZeroDivisionError("by zero"), 3, "bug in Backbench: BACKBENCH_DEBUG=1"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_is_one_line_and_never_a_traceback(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(models_command, "print_json", fail)
    assert entry.main(["models", "--json"]) == status
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == (1 if words else 0)
    assert "Traceback" not in said.err


def test_the_traceback_of_a_bug_can_be_had(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(models_command, "print_json", fail)
    monkeypatch.setenv("BACKBENCH_DEBUG", "1")
    assert entry.main(["models", "--json"]) == 3
    said = capsys.readouterr()
    assert "Traceback" in said.err
    assert said.err.splitlines()[-1].startswith("backbench: error: ZeroDivisionError: by zero")


def test_the_version_and_the_help_are_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--version"]) == 0
    assert capsys.readouterr().out == f"backbench {__version__}\n"
    for arguments in (["--help"], ["profile", "--help"], ["run", "--help"], ["device", "add", "--help"]):
        assert entry.main(arguments) == 0
        said = capsys.readouterr()
        assert "Usage" in said.out
        assert said.err == ""


def _start(*arguments: str, stdout: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "backbench.controller", *arguments]
    return subprocess.Popen(command, text=True, stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.parametrize("arguments", [("--help",), ("models",)])
def test_what_only_prints_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; from backbench.controller.__main__ import main\n"
        f"sys.argv[1:] = {list(arguments)!r}\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "timm", "onnx", "onnxruntime", "numpy", "grpc", "scipy", "sqlalchemy", "duckdb", "pyarrow"}
    assert not heavy & set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [("models", "--json"), ("models",), ("--help",)])
def test_a_reader_that_goes_away_is_no_error(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    process = _start(*arguments, stdout=write)
    os.close(write)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert said == ""
