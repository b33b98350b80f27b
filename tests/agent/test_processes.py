"""Real workers that misbehave: each ending is told apart, nothing they started is left, and no secret reaches them.

Their backend is one of this test's own, which does what the text in the model's file says.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from backbench.agent.processes import clear_folders, kept_environment
from backbench.agent.supervisor import Surroundings, Watchdog, Worker, prepare_model
from backbench.agent.worker.job import Job
from backbench.domain.run import SECOND_NS, FailureReason, RunFailure

BACKEND = """
import os, signal, socket, subprocess, sys, time
from pathlib import Path


class Engine:
    facts = {}
    output_names = ()

    def __init__(self, code):
        self.infer = lambda slot: exec(code, globals())

    def bind(self, slots): pass
    def outputs(self): return ()
    def __enter__(self): return self
    def __exit__(self, *_): pass


class Backend:
    name = "obedient"
    def load(self): pass
    def open(self, request): return Engine(Path(request.model_path).read_text())


def say(*words): print(*words, file=sys.stderr, flush=True)
def child(**options):
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    say("child", subprocess.Popen(sleeper, start_new_session=True, **options).pid)
def daemon():
    detach = "import os, time; os.setsid(); n = os.fork(); n and print('child', n, flush=True); n or time.sleep(600)"
    subprocess.run([sys.executable, "-c", detach], env={}, stdout=2)
"""
Run = Callable[..., RunFailure]


@pytest.fixture
def run(make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a worker whose inference is the given Python; the failure that comes of it."""
    library = tmp_path / "library"
    (library / "obedient-1.dist-info").mkdir(parents=True)
    (library / "obedient.py").write_text(BACKEND)
    (library / "obedient-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: obedient\nVersion: 1\n")
    (library / "obedient-1.dist-info/entry_points.txt").write_text("[backbench.backends]\nobedient=obedient:Backend\n")
    monkeypatch.setenv("PYTHONPATH", str(library))
    clear_folders(tmp_path / "work")

    def run(code: str, stall_s: float = 60, **about_the_job: Any) -> RunFailure:
        (tmp_path / "model.onnx").write_text(code)
        job = make_job(backend="obedient", model_path=str(tmp_path / "model.onnx"), **about_the_job)
        worker = Worker(job, 0, lambda _: None, lambda *_: None, surroundings=Surroundings(folders=tmp_path / "work"))
        limit_ns = time.perf_counter_ns() + 60 * SECOND_NS
        failure = asyncio.run(worker.run(Watchdog(int(stall_s * SECOND_NS), limit_ns, asyncio.Event())))
        assert failure is not None
        assert list((tmp_path / "work").iterdir()) == []
        return failure

    return run


def children_of(failure: RunFailure) -> list[int]:
    """The processes that the worker says it started."""
    found = [int(line.split()[1]) for line in failure.log_tail if line.startswith("child ")]
    assert found
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("code", "number", "reason", "words"),
    [
        ("import ctypes; ctypes.string_at(0)", signal.SIGSEGV, FailureReason.WORKER_CRASHED, "crashed with SIGSEGV"),
        ("os.abort()", signal.SIGABRT, FailureReason.WORKER_CRASHED, "crashed with SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGBUS)", signal.SIGBUS, FailureReason.WORKER_CRASHED, "the disk is full"),
        (
            "os.kill(os.getpid(), signal.SIGILL)", signal.SIGILL, FailureReason.ILLEGAL_INSTRUCTION,
            "instructions that this processor lacks",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", signal.SIGKILL, FailureReason.WORKER_CRASHED, "ended by SIGKILL"),
    ],
)  # fmt: skip
def test_a_crash_is_told_by_its_signal_and_the_worker_s_last_words(
    code: str, number: signal.Signals, reason: FailureReason, words: str, run: Run
) -> None:
    failure = run(f"say('my last words'); {code}")
    assert (failure.reason, failure.signal, failure.exit_status) == (reason, number, None)
    assert words in failure.message
    assert "first_inference" in failure.message
    assert "\n" not in failure.message
    assert "my last words" in failure.log_tail


def test_a_worker_that_hangs_is_asked_to_end_before_it_is_killed(run: Run) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: (say('asked to end'), os._exit(0))); time.sleep(600)"
    failure = run(code, stall_s=1)
    assert failure.reason is FailureReason.WORKER_TIMED_OUT
    assert "asked to end" in failure.log_tail


def test_a_worker_that_does_not_want_to_end_is_killed_with_all_that_it_started(run: Run) -> None:
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); child(); child(env={}); daemon(); time.sleep(600)"
    failure = run(code, stall_s=2)
    assert failure.reason is FailureReason.WORKER_TIMED_OUT
    children = children_of(failure)
    assert len(children) == 3
    assert all(map(gone, children))


def test_what_a_crashed_worker_started_is_killed_and_holds_nobody_up(run: Run) -> None:
    failure = run("child(); os.abort()", stall_s=30)
    assert failure.signal == signal.SIGABRT
    assert all(map(gone, children_of(failure)))


def test_a_worker_sees_no_secret_of_the_agent_s_and_no_folder_of_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_SECRET_KEY", "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = "say('names', *os.environ); say('folders', os.getcwd(), os.environ['TMPDIR'])"
    failure = run(f"{code}; Path('big').write_bytes(bytes(2 << 20))")
    told = {line.split()[0]: line.split()[1:] for line in failure.log_tail if line.startswith(("names", "folders"))}
    assert "OMP_NUM_THREADS" in told["names"]
    assert "CLOUD_SECRET_KEY" not in told["names"]
    working, temporary = map(Path, told["folders"])
    assert working == temporary
    assert working.parent.name == "work"
    assert "File too large" in failure.message


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "5",
        "[" * 100_000,
        '{"event": "pause", "longest_ns": "x"}',
        '{"event": "failure", "reason": "x"}',
        '{"event": "stage", "stage": "' + "x" * (3 << 20) + '"}',
    ],
    ids=["no JSON", "no event", "too deep", "no number", "no reason", "too long"],
)
def test_a_worker_that_sends_nonsense_is_ended_and_says_so(words: str, run: Run) -> None:
    code = (
        "for link in Path('/proc/self/fd').iterdir():\n"
        "    if link.is_symlink() and int(link.name) > 2 and os.readlink(link).startswith('pipe:'):\n"
        f"        os.write(int(link.name), {words.encode()!r} + b'\\n')\n"
        "time.sleep(600)"
    )
    failure = run(code)
    assert failure.reason is FailureReason.WORKER_CRASHED
    assert "something unintelligible" in failure.message
    assert "in stage first_inference" in failure.message


TABLE = (
    "for link in Path('/proc/self/fd').iterdir():\n"
    "    if link.is_symlink() and 'backbench-frames' in os.readlink(link):\n"
    "        table = int(link.name)\n"
)


def test_a_worker_that_writes_over_its_table_does_not_take_the_agent_with_it(run: Run) -> None:
    failure = run(TABLE + "os.pwrite(table, bytes([127]) * os.fstat(table).st_size, 0)\nos.abort()")
    assert failure.reason is FailureReason.WORKER_CRASHED
    assert failure.message.startswith("the worker wrote over its table of frames")


def test_a_worker_cannot_take_the_table_away_that_the_agent_reads(run: Run) -> None:
    failure = run(
        TABLE + "for size in (0, 1 << 20):\n  try: os.ftruncate(table, size)\n  except OSError as e: say(e)\nos.abort()"
    )
    assert failure.log_tail == ("[Errno 1] Operation not permitted",) * 2


def test_a_worker_that_hangs_before_it_has_read_its_job_is_ended_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "library" / "sitecustomize.py").write_text("import time; time.sleep(600)")
    failure = run("#" * 10, stall_s=1, image_names=("a name" * 50,) * 1000)  # more than a pipe holds
    assert failure.reason is FailureReason.WORKER_TIMED_OUT
    assert "in stage start" in failure.message


def test_a_worker_that_writes_without_end_is_remembered_by_its_last_lines(run: Run) -> None:
    code = "for _ in range(64): os.write(2, bytes([120]) * (1 << 20))\nos.write(2, b'\\nlast\\n' * 10_000); os.abort()"
    assert run(code).log_tail == ("last",) * 20


def test_a_worker_is_what_goes_where_the_machine_runs_out_of_memory(run: Run) -> None:
    failure = run("say(Path('/proc/self/oom_score_adj').read_text()); os.abort()")
    assert failure.log_tail == ("1000",)


async def test_preparing_a_model_that_is_killed_is_a_failure_with_its_signal(tmp_path: Path) -> None:
    source = tmp_path / "pipe"
    os.mkfifo(source)  # which is waited at for ever
    watchdog = Watchdog(SECOND_NS, time.perf_counter_ns() + 60 * SECOND_NS, asyncio.Event())
    preparing = asyncio.ensure_future(
        prepare_model([str(source), str(tmp_path / "made.onnx"), "file", "1", "8", "8"], watchdog)
    )
    deadline = time.monotonic() + 60
    while not (found := [each for each in psutil.Process().children() if "backbench.agent.prepare" in each.cmdline()]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    found[0].send_signal(signal.SIGSEGV)
    failure = await preparing
    assert failure is not None
    assert failure.signal == signal.SIGSEGV
    assert "in stage prepare" in failure.message


async def test_a_preparation_that_writes_without_end_is_remembered_by_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nfor _ in range(64): os.write(2, bytes(1 << 20))\nos.write(1, b'x' * (1 << 20)); os._exit(1)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    watchdog = Watchdog(SECOND_NS, time.perf_counter_ns() + 60 * SECOND_NS, asyncio.Event())
    failure = await prepare_model(["source", "made", "file", "1", "8", "8"], watchdog)
    assert failure is not None
    assert (failure.reason, failure.exit_status) == (FailureReason.WORKER_CRASHED, 1)
    assert sum(map(len, failure.log_tail)) <= 500


async def test_a_process_that_cannot_be_started_is_a_failure_that_says_what_is_lacking(
    make_job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkdtemp", full)
    watchdog = Watchdog(SECOND_NS, time.perf_counter_ns() + 60 * SECOND_NS, asyncio.Event())
    worker = Worker(make_job(), 0, lambda _: None, lambda *_: None, surroundings=Surroundings(folders=tmp_path))
    for failure in (await worker.run(watchdog), await prepare_model([], watchdog, folders=tmp_path)):
        assert failure is not None
        assert failure.reason is FailureReason.DISK_FULL
        assert "(No space left on device); free what it lacks" in failure.message


def test_an_environment_keeps_what_tunes_libraries_and_nothing_else() -> None:
    tuning = {"PATH": "/bin", "LC_ALL": "C", "LD_LIBRARY_PATH": "/lib", "CUDA_VISIBLE_DEVICES": "0"}
    secrets = ("AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY")
    given = {**tuning, **dict.fromkeys(secrets, "x"), "PYTHONPATH": "here:/there"}
    kept = kept_environment(given)
    assert kept == {**tuning, "PYTHONPATH": f"{Path('here').absolute()}:/there"}


def test_folders_that_a_killed_agent_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / "work/worker-x/deep").mkdir(parents=True)
    clear_folders(tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_a_process_that_a_killed_agent_left_is_ended_and_that_of_another_agent_is_not(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    mine, other = (
        subprocess.Popen(
            sleeper,
            env={"BACKBENCH_LAUNCH": "x", "TMPDIR": str(tmp_path / folder / "worker-x")},
            start_new_session=True,
        )
        for folder in ("mine", "other")
    )
    try:
        clear_folders(tmp_path / "mine")
        assert mine.wait(60) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
