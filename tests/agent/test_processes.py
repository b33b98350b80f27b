"""Real workers that misbehave: each ending is told apart, nothing they started is left, and no secret reaches them.

Their backend is one of this test's own, which does what the text in the model's file says.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

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

    def run(code: str, stall_s: float = 60) -> RunFailure:
        (tmp_path / "model.onnx").write_text(code)
        job = make_job(backend="obedient", model_path=str(tmp_path / "model.onnx"))
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
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); child(); child(env={}); time.sleep(600)"
    failure = run(code, stall_s=2)
    assert failure.reason is FailureReason.WORKER_TIMED_OUT
    children = children_of(failure)
    assert len(children) == 2
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


def test_a_worker_that_sends_nonsense_is_ended_and_says_so(run: Run) -> None:
    code = (
        "for link in Path('/proc/self/fd').iterdir():\n"
        "    if link.is_symlink() and int(link.name) > 2 and os.readlink(link).startswith('pipe:'):\n"
        "        os.write(int(link.name), b'nonsense\\n')\n"
        "time.sleep(600)"
    )
    failure = run(code)
    assert failure.reason is FailureReason.WORKER_CRASHED
    assert "something unintelligible in stage first_inference" in failure.message


def test_a_worker_that_writes_over_its_table_does_not_take_the_agent_with_it(run: Run) -> None:
    code = (
        "for link in Path('/proc/self/fd').iterdir():\n"
        "    if link.is_symlink() and 'backbench-frames' in os.readlink(link):\n"
        "        os.pwrite(int(link.name), bytes([127] * 8), 0)\n"
        "os.abort()"
    )
    assert run(code).signal == signal.SIGABRT


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
