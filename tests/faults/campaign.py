"""Randomised trials of survival: break something at a random moment, then hold the store against the device.

`scripts/faults` runs it. Every trial follows from the seed and its number alone: `--seed S --only N` does it again.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.checks import Compared
from tests.faults.faults import FAULTS, Draw, Fault, draw, perform
from tests.faults.processes import adopting
from tests.faults.scene import SHAPES, Life, Scene, Shape

Say = Callable[[str], None]
_HEADINGS = (
    "fault", "trials", "struck in time", "runs done", "interrupted", "failed", "never submitted", "events compared",
    "frames compared", "trials failed",
)  # fmt: skip


@dataclass
class Trial:
    """What came of one."""

    number: int
    drawn: Draw
    struck: bool = False
    problems: list[str] = field(default_factory=list)
    compared: Compared = field(default_factory=Compared)
    states: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Campaign:
    """Trials over one scene; after a failed one over a new one, the old folders stay.

    `lives` says how undisturbed runs go, by their shapes' names; what is not there is measured first.
    """

    def __init__(
        self, seed: int, faults: Sequence[Fault] = FAULTS, *, say: Say, lives: Mapping[str, Life] | None = None
    ) -> None:
        self._seed = seed
        self._faults = faults
        self._say = say
        self._scene: Scene | None = None
        self._lives = dict(lives or {})
        self.trials: list[Trial] = []

    def run(self, numbers: Iterable[int]) -> None:
        """Do these trials."""
        with adopting():
            try:
                for number in numbers:
                    self._trial(Trial(number, draw(self._seed, number, self._faults)))
            finally:
                self._drop(keep=False)

    @property
    def failed(self) -> list[Trial]:
        """Trials after which something was not as it must be."""
        return [trial for trial in self.trials if trial.problems]

    def _trial(self, trial: Trial) -> None:
        started_s = time.monotonic()
        self.trials.append(trial)
        scene = self._scene or self._build()
        self._scene = scene
        life = self._life(scene, trial.drawn.shape)
        scene.begin()
        try:
            trial.struck = perform(scene, trial.drawn, life)
            trial.problems += scene.fetch(trial.drawn.collect)
            trial.problems += scene.problems(trial.drawn.fault.states, trial.compared)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this trial's result
            trial.problems.append(f"{type(error).__name__}: {error}")
        trial.states = scene.ended_as()
        trial.seconds = time.monotonic() - started_s
        came = "" if trial.struck else ", which did not come"
        self._say(f"trial {trial.number}: {trial.drawn}{came}: {self._verdict(trial)} ({trial.seconds:.1f} s)")
        if trial.problems:
            self._say(f"  FAILED with seed {self._seed}, trial {trial.number}; folders: {scene.folder}")
            for problem in trial.problems:
                self._say(f"  - {problem}")
            self._drop(keep=True)

    def _verdict(self, trial: Trial) -> str:
        if trial.problems:
            return f"{len(trial.problems)} problems"
        ended = ", ".join(trial.states) or "never submitted"
        return f"{ended}, {trial.compared.events} events and {trial.compared.frames} frames equal"

    def _build(self) -> Scene:
        scene = Scene(Path(tempfile.mkdtemp(prefix="backbench-faults-")))
        if not self._lives:
            scene.life(SHAPES[0])  # pushes the model and makes it ready, which the lives of trials do without
        return scene

    def _life(self, scene: Scene, shape: Shape) -> Life:
        name = shape.name if shape in SHAPES else SHAPES[0].name
        if name not in self._lives:
            (known,) = [each for each in SHAPES if each.name == name]
            self._lives[name] = scene.life(known)
        return self._lives[name]

    def _drop(self, keep: bool) -> None:
        if self._scene is not None:
            self._scene.close()
            if not keep:
                shutil.rmtree(self._scene.folder, ignore_errors=True)
            self._scene = None


def report(seed: int, trials: Sequence[Trial], seconds: float) -> str:
    """A table by fault, in Markdown."""
    kinds: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        kinds[trial.drawn.fault.name].append(trial)
    rows = [_row(name, of_kind) for name, of_kind in sorted(kinds.items())] + [_row("**all**", trials)]
    return "\n".join(
        (
            f"| {' | '.join(_HEADINGS)} |",
            f"|---|{'---:|' * (len(_HEADINGS) - 1)}",
            *rows,
            "",
            f"Seed {seed}, {seconds / 60:.0f} minutes; {_machine()}.",
        )
    )


def _row(name: str, trials: Sequence[Trial]) -> str:
    states = [state for trial in trials for state in trial.states]
    total = Compared()
    for trial in trials:
        total.add(trial.compared)
    numbers = (
        len(trials), sum(trial.struck for trial in trials), states.count("done"), states.count("interrupted"),
        states.count("failed"), sum(not trial.states for trial in trials), total.events, total.frames,
        sum(bool(trial.problems) for trial in trials),
    )  # fmt: skip
    return f"| {name} | {' | '.join(map(str, numbers))} |"


def _machine() -> str:
    cpus = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cpus} processors, Linux {platform.release()}, Python {platform.python_version()}"


def no_packet_loss() -> str:
    """Why packets cannot be lost on purpose here; nothing where they can."""
    script = "ip link set lo up && tc qdisc add dev lo root netem loss 1%"
    try:
        done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no unshare command"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it is not allowed"])[-1]


def lose_packets(percent: float, arguments: Sequence[str]) -> None:
    """Go on as a process in a network of its own whose loopback loses packets."""
    script = f'ip link set lo up && tc qdisc add dev lo root netem loss {percent:g}% && exec "$@"'
    again = [sys.executable, "-m", "tests.faults.campaign", *arguments]
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", script, "sh", *again])  # noqa: S606 - a list


def _share(seed: int, numbers: Sequence[int], minutes: float | None) -> list[Trial]:
    """Do these trials in this process, until the time is up."""
    for number in (signal.SIGINT, signal.SIGTERM):  # nothing that was started is to outlive this
        signal.signal(number, signal.default_int_handler)
    end_s = time.monotonic() + 60 * minutes if minutes else float("inf")
    campaign = Campaign(seed, say=_say)
    with contextlib.suppress(KeyboardInterrupt):
        campaign.run(itertools.takewhile(lambda _: time.monotonic() < end_s, numbers))
    return campaign.trials


def _shared(seed: int, options: argparse.Namespace) -> list[Trial]:
    """Do all trials, some at the same time where that was asked for; each job has its own agent and store."""
    numbers = range(options.trials) if options.only is None else (options.only,)
    if options.jobs == 1:
        return _share(seed, numbers, options.minutes)
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        shares = [numbers[job :: options.jobs] for job in range(options.jobs)]
        jobs = [pool.submit(_share, seed, share, options.minutes) for share in shares]
        return sorted((trial for job in jobs for trial in job.result()), key=lambda trial: trial.number)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """The command line; 1 when a trial failed."""
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, metavar="N", help="default: a new one, which is printed")
    parser.add_argument("--only", type=int, metavar="N", help="only the trial of that number")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no trial after so many")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="so many at the same time; default: %(default)s"
    )
    parser.add_argument("--loss", type=float, metavar="PERCENT", help="lose packets meanwhile (root, netem)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args()
    if options.loss:
        if reason := no_packet_loss():
            _say(f"packet loss: skipped: {reason}")
        else:
            others = [each for each in sys.argv[1:] if not each.startswith("--loss=")]
            if "--loss" in others:
                place = others.index("--loss")
                del others[place : place + 2]
            lose_packets(options.loss, others)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    _say(f"seed {seed}: --seed {seed} --only N does trial N again")
    started_s = time.monotonic()
    trials = _shared(seed, options)
    text = report(seed, trials, time.monotonic() - started_s)
    _say(f"\n{text}")
    if options.report is not None:
        options.report.write_text(f"# Survival of faults\n\nMade by `scripts/faults`.\n\n{text}\n")
    return 1 if any(trial.problems for trial in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
