"""Several backends side by side through the real commands, and the layers of a run.

It stands on ONNX Runtime on the CPU and on `tests/fakes/built_backend.py`, a backend of numpy that builds engines; no
vendor's library and no GPU take part.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.agent.conftest import SIZE, tiny_model
from tests.e2e.conftest import Backbench, a_command, start_agent
from tests.fakes import built_backend

from backbench.controller.client import AgentClient
from backbench.controller.report.text import comparison, ratios, run_summary
from backbench.controller.store import Store
from backbench.domain.event import LaunchReport
from backbench.domain.run import LaunchPurpose

SMALL = ("--size", str(SIZE), "--frames", "40", "--warmup", "2", "--telemetry-rate", "0")


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backbench]:
    """The command line with a device `lab1` that has both backends, and `tiny.onnx` where it works."""
    folder = tmp_path_factory.mktemp("backends")
    built_backend.install(folder / "packages")
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("PYTHONPATH", str(folder / "packages"))
        agent = start_agent(folder / "data")
    for made in a_command(folder):
        (made.cwd / "tiny.onnx").write_bytes(tiny_model())
        made("device", "add", "lab1", agent.address)
        yield made
    agent.stop()


@pytest.fixture(scope="module")
def pair(command: Backbench) -> list[dict[str, Any]]:
    """The documents of one model by two backends, whose launches took turns."""
    asked = ("--backend", "built", "--backend", "onnxruntime", "--launches", "2", "--layers")
    done = command(
        "profile", "tiny.onnx", "--device", "lab1", *asked, "--backend-option", "salt=pair", *SMALL, "--json"
    )
    assert "option salt is none of onnxruntime; it goes to the other backends alone" in done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "backbench.runs/1"
    return list(document["runs"])


def test_two_backends_run_the_same_model_by_turns_and_the_engine_is_in_the_document(pair: list[dict[str, Any]]) -> None:
    assert [run["backend"]["name"] for run in pair] == ["built", "onnxruntime"]
    assert [run["state"] for run in pair] == ["done", "done"]
    assert len({run["model"]["artifact"] for run in pair}) == 1
    assert [run["launches"]["count"] for run in pair] == [2, 2]
    engine = pair[0]["engine"]
    assert (engine["cached"], engine["key"]["salt"], engine["layer_count"]) == (False, "pair", 2)
    assert engine["build_s"] > 0
    assert pair[0]["contract"]["backend_options"] == {"salt": "pair"}
    assert pair[0]["memory_mb"]["accelerator"]["engine.file"]["peak"] == engine["size_mb"] == 3.7e-05
    assert (pair[1]["engine"], pair[1]["memory_mb"]["accelerator"]) == (None, None)
    assert pair[1]["contract"]["backend_options"] is None


def test_the_launches_took_turns_and_the_artifact_was_pushed_once(
    command: Backbench, pair: list[dict[str, Any]]
) -> None:
    with Store.open(command.home) as store:
        address = store.device("lab1").address
    with AgentClient(address) as client:
        windows = [
            (event.event.window_start_ns, place)
            for place, run in enumerate(pair)
            for event in client.watch_run(run["run_id"])
            if isinstance(event.event, LaunchReport) and event.event.purpose is LaunchPurpose.TIMED
        ]
        held = [artifact.name for artifact in client.list_artifacts()]
    assert [place for _, place in sorted(windows)] in ([0, 1, 1, 0], [1, 0, 0, 1])
    assert held.count("tiny") == 1


def test_backends_compare_and_have_a_column_of_their_own(command: Backbench, pair: list[dict[str, Any]]) -> None:
    compared = json.loads(command("compare", *(run["run_id"] for run in pair), "--json").stdout)
    assert (compared["compared"], compared["comparable"], compared["differences"]) == ("backend", True, [])
    words = _printed(ratios(compared, pair))
    assert "Backends are compared" in words
    assert "onnxruntime" in words.split("Backends are compared")[0]
    header, _, *rows = _printed(comparison(pair)).strip().splitlines()
    assert header.split()[:2] == ["model", "backend"]
    assert [row.split()[1] for row in rows] == ["built", "onnxruntime"]
    assert "built in" in _printed(run_summary(pair[0]))


def test_a_device_shows_what_each_backend_takes_and_a_list_of_runs_who_ran_them(
    command: Backbench, pair: list[dict[str, Any]]
) -> None:
    shown = command("device", "show", "lab1").stdout
    assert "built 1.0: numpy\n    chooses a precision by itself: fp16\n    options: behave, salt\n" in shown
    assert f"tiny ({pair[0]['backend']['name']})" in command("run", "list").stdout


def test_layers_are_told_slowest_first_for_people_and_programs(command: Backbench, pair: list[dict[str, Any]]) -> None:
    built, ort = (run["run_id"] for run in pair)
    answer = json.loads(command("layers", built, "--json").stdout)
    assert (answer["schema"], answer["run_id"], answer["inferences"]) == ("backbench.layers/1", built, 20)
    assert [(row["name"], row["engine"], row["share"]) for row in answer["layers"]] == [
        ("sum", "numpy", 0.75), ("div", "numpy", 0.25),
    ]  # fmt: skip
    assert Path(pair[0]["files"]["layers"]).is_file()
    top = command("layers", ort[-8:], "--top", "1").stdout
    assert "CPUExecutionProvider" in top
    assert "under a profiler" in top


def test_a_precision_that_a_backend_chooses_needs_no_other_model_and_no_layers_are_none(command: Backbench) -> None:
    done = command(
        "profile", "tiny.onnx", "--device", "lab1", "--backend", "built", "--precision", "fp16", *SMALL, "--json"
    )
    document = json.loads(done.stdout)
    assert (document["engine"]["precision"], document["contract"]["engine_precision"]) == ("fp16", "fp16")
    assert document["model"]["conversion"] is None
    assert (document["layers"], document["files"]["layers"]) == (None, None)
    said = command("layers", document["run_id"], status=2).stderr
    assert "has no layers; they take a pass of their own: backbench profile tiny" in said
    assert said.count("\n") == 1


def test_what_the_device_cannot_do_is_one_line_and_nothing_is_sent(command: Backbench) -> None:
    asked = ("--backend", "built", "--backend-option", "solt=1", *SMALL)
    done = command("profile", "tiny.onnx", "--device", "lab1", *asked, status=2)
    assert "the options are behave, salt; did you mean salt?" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def _printed(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=110, record=True)
    console.print(renderable)
    return console.export_text()
