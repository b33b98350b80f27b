"""Runs handed over, listed, followed, fetched and ended on the command line, with a real agent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from backbench.controller.client import AgentClient
from backbench.domain.run import Run, RunState

MODEL = "mobilenetv3_large_100"
QUICK = (MODEL, "--device", "here", "--size", "32", "--frames", "20", "--warmup", "2", "--no-memory-pass")


def handed_over(backbench: Any, *more: str) -> str:
    answer = backbench("profile", *QUICK, "--detach", "--json", *more).json
    assert (answer["schema"], answer["device"]) == ("backbench.submitted/1", "here")
    (run,) = answer["runs"]
    assert (run["model"], run["size"]) == (MODEL, [32, 32])
    return str(run["run_id"])


def until_ended(address: str, run_id: str) -> Run:
    deadline = time.monotonic() + 60
    with AgentClient(address) as client:
        while not (run := client.get_run(run_id)).state.ended:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    return run


def row(listed: Any, run_id: str) -> Any:
    (found,) = [run for run in listed["runs"] if run["run_id"] == run_id]
    return found


def test_a_run_is_handed_over_listed_fetched_and_shown(here: Any, address: str) -> None:
    told = here("profile", *QUICK, "--detach").out
    assert "backbench run follow" in told
    assert "backbench run collect --device here" in told
    run_id = handed_over(here)
    until_ended(address, run_id)
    listed = here("run", "list", "--device", "here", "--json").json
    found = row(listed, run_id)
    assert listed["devices"] == [{"name": "here", "error": None}]
    assert (found["known_here"], found["finished_here"]) == (True, False)
    assert found["on_device"]["state"] == "done"
    assert found["on_device"]["mine"]
    assert not found["on_device"]["collected"]
    text = here("run", "list", "--device", "here").out
    assert "not yet" in text
    assert "run collect --device here" in text
    assert f"not finished here: backbench run follow {run_id[-8:]}" in here("run", "list").out
    fetched = here("run", "collect", "--device", "here", "--json").json
    assert fetched["schema"] == "backbench.collected/1"
    assert row(fetched, run_id)["frames"]["completed"] == 20
    assert fetched["devices"][0]["fetched"] == len(fetched["runs"]) == 2
    again = here("run", "collect", "--all")
    assert again.out.startswith("here: nothing new")
    assert row(here("run", "list", "--all", "--json").json, run_id)["on_device"]["collected"]
    assert "not finished here" not in here("run", "list").out
    here("run", "show", run_id)


def test_a_run_of_another_controller_is_listed_taken_in_and_cancelled(here: Any, address: str, tmp_path: Path) -> None:
    other = ("--store", str(tmp_path / "other"))
    here(*other, "device", "add", "there", address)
    run_id = here(*other, "profile", MODEL, "--device", "there", *QUICK[3:], "--detach", "--json").json["runs"][0][
        "run_id"
    ]
    found = row(here("run", "list", "--device", "here", "--json").json, run_id)
    assert (found["known_here"], found["on_device"]["mine"]) == (False, False)
    until_ended(address, run_id)
    assert "run list" in here("run", "follow", run_id, status=2).err
    document = here("run", "follow", "--device", "here", run_id[-8:], "--json").json
    assert (document["run_id"], document["state"], document["budgets"]) == (run_id, "done", [])
    assert here("run", "follow", "--device", "here", run_id[-8:], "--json").json == document
    endless = here(
        *other, "profile", MODEL, "--device", "there", *QUICK[3:], "--frames", "1000000", "--detach", "--json"
    ).json["runs"][0]["run_id"]
    assert "cancelled" in here("run", "cancel", "--device", "here", endless).out
    assert until_ended(address, endless).state is RunState.CANCELLED
    assert "no run of the device" in here("run", "cancel", "--device", "here", "nothing", status=2).err


def test_a_device_that_does_not_answer_is_a_line_and_matters_only_where_it_was_named(here: Any) -> None:
    here("device", "add", "gone", "127.0.0.1:1", "--no-check")
    for command in ("list", "collect"):
        answer = here("run", command, "--all")
        assert answer.err.startswith("backbench: gone: no agent answers")
        assert answer.err.count("\n") == 1
        named = here("run", command, "--device", "gone", "--device", "here", status=3)
        assert named.err.startswith("backbench: gone: no agent answers")
    listed = here("run", "list", "--all", "--json").json
    assert [(device["name"], device["error"] is None) for device in listed["devices"]] == [
        ("gone", False),
        ("here", True),
    ]


def test_a_run_whose_device_is_gone_for_good_is_ended_here(here: Any, address: str) -> None:
    run_id = handed_over(here)
    until_ended(address, run_id)
    here("device", "remove", "here")
    here("run", "follow", run_id, status=2)
    assert "is ended here" in here("run", "cancel", "--here", run_id).out
    document = here("run", "show", run_id, "--json", status=130).json
    assert document["state"] == "cancelled"
    assert "ended here" in document["validity"]["reasons"][0]["detail"]
    assert "has ended already" in here("run", "cancel", run_id).out


def test_without_waiting_a_device_in_use_is_status_3_and_names_who_has_it(here: Any, address: str) -> None:
    with AgentClient(address) as client:
        lease = client.acquire_lease("alice@laptop")
        try:
            refused = [
                here("profile", *QUICK, "--no-wait", status=3),
                here("noise", "--device", "here", "--no-wait", status=3),
                here("device", "show", "here", "--roofline", "--no-wait", status=3),
            ]
        finally:
            client.release_lease(lease)
    assert all("here is used by alice@laptop" in answer.err for answer in refused)
    assert here("run", "list", "--json").json["runs"] == []
    here("profile", *QUICK, "--no-wait")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "collect"), "--device NAME, or --all"),
        (("run", "collect", "--device", "nowhere"), "nowhere"),
        (("run", "list", "--device", "nowhere"), "nowhere"),
        (("run", "list", "--device", "here", "--all"), "give one of them"),
        (("run", "cancel", "--device", "here", "--here", "1234"), "give one of them"),
        (("profile", *QUICK, "--detach", "--no-wait"), "--no-wait"),
        (("profile", *QUICK, "--priority", "urgent"), "--priority"),
    ],
)
def test_bad_input_is_one_line_and_status_2(here: Any, arguments: tuple[str, ...], words: str) -> None:
    refused = here(*arguments, status=2)
    assert words in refused.err
    assert refused.err.count("\n") == 1


def test_a_nightly_run_says_so_to_the_device(here: Any, address: str) -> None:
    run_id = handed_over(here, "--priority", "nightly")
    assert until_ended(address, run_id).spec.priority.value == "nightly"
