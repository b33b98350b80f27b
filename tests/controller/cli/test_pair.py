"""Pairing and everything after it on the command line, against real agents that ask for certificates."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from backbench.controller.operations import certificates
from backbench.controller.operations.devices import client_of
from backbench.controller.store import DeviceRecord, Store
from backbench.domain.errors import PermissionDenied
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec
from backbench.v1 import security_pb2, security_pb2_grpc

MODEL = "mobilenetv3_large_100"
QUICK = (MODEL, "--size", "32", "--frames", "10", "--warmup", "2", "--no-memory-pass")


@dataclass
class Agent:
    """`backbench-agent serve --tls` in a process of its own."""

    data_dir: Path
    address: str
    code: str

    def new_code(self) -> str:
        """Another pairing code, as `backbench-agent pair` gets it."""
        with grpc.insecure_channel(f"unix:{self.data_dir / 'agent.sock'}") as channel:
            stub = security_pb2_grpc.SecurityServiceStub(channel)
            return stub.OpenPairing(security_pb2.OpenPairingRequest(), timeout=30).code


@contextmanager
def serving(data_dir: Path) -> Iterator[Agent]:
    command = [sys.executable, "-m", "backbench.agent", "serve", "--tls", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--data-dir", str(data_dir)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        address, code = process.stdout.readline(), process.stdout.readline()
        assert address.startswith("listening on "), address
        yield Agent(data_dir, address.removeprefix("listening on ").strip(), code.split()[2])
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(autouse=True)
def impatience_with_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "PATIENCE_S", 0.2)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One for all tests: each has a fleet of its own."""
    with serving(tmp_path_factory.mktemp("agent")) as agent:
        yield agent


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """Another device."""
    with serving(tmp_path_factory.mktemp("other")) as agent:
        yield agent


@pytest.fixture
def paired(backbench: Any, agent: Agent) -> Any:
    """The command line, with the agent's device known as `pi5`."""
    backbench("pair", agent.address, "--code", agent.new_code(), "--name", "pi5")
    return backbench


@pytest.fixture
def elsewhere(backbench: Any, tmp_path: Path) -> Callable[..., Any]:
    """The command line of another laptop."""
    return lambda *arguments, **named: backbench("--store", str(tmp_path / "elsewhere"), *arguments, **named)


def one_line(answer: Any) -> str:
    assert answer.out == ""
    assert answer.err.startswith("backbench: error: ")
    assert answer.err.count("\n") == 1
    return str(answer.err)


@pytest.fixture
def change(home: Path) -> Callable[..., DeviceRecord]:
    """Change what the store knows of `pi5`, or just tell it."""

    def changed(**changes: Any) -> DeviceRecord:
        with Store.open(home) as store:
            store.put_device(replace(store.device("pi5"), **changes))
            return store.device("pi5")

    return changed


def test_the_code_that_is_printed_makes_a_device_that_can_be_profiled(backbench: Any, agent: Agent, home: Path) -> None:
    said = backbench("pair", agent.address, "--code", agent.code.lower().replace("-", " "))
    assert f"is paired at {agent.address}" in said.out
    (device,) = backbench("device", "list", "--json").json["devices"]
    assert device["tls"]
    assert device["certificate_not_after_unix_s"] > time.time() + 80 * 86400
    run = backbench("profile", *QUICK, "--device", device["name"], "--json").json
    assert (run["state"], run["frames"]["completed"]) == ("done", 10)
    assert agent.code not in json.dumps(device) + said.out + said.err
    for path in (*home.rglob("*"), *agent.data_dir.rglob("*")):
        assert not path.is_file() or agent.code.encode() not in path.read_bytes(), path


def test_the_code_is_read_from_standard_input_so_that_it_is_in_no_command_line(
    backbench: Any, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(agent.new_code() + "\n"))
    backbench("pair", agent.address, "--code", "-", "--name", "pi5")
    assert "no pairing code" in one_line(backbench("pair", agent.address, status=2))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_code_is_asked_for_on_a_terminal(backbench: Any, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(agent.new_code() + "\n"))
    assert "Pairing code (backbench-agent pair prints one)" in backbench("pair", agent.address, "--name", "pi5").err
    monkeypatch.setattr("sys.stdin", Terminal(""))
    backbench("pair", agent.address, status=130)


def test_a_code_that_is_wrong_used_or_none_at_all_is_one_line(backbench: Any, agent: Agent) -> None:
    wrong = one_line(backbench("pair", agent.address, "--code", "AAAA-BBBB-CCCC-DDDD", status=3))
    assert f"no agent with this pairing code answers at {agent.address}" in wrong
    assert "AAAA" not in wrong
    typed = one_line(backbench("pair", agent.address, "--code", "SECRET-WORD", status=2))
    assert "16 letters and digits" in typed
    assert "SECRET" not in typed
    code = agent.new_code()
    backbench("pair", agent.address, "--code", code, "--name", "pi5")
    assert "used already" in one_line(backbench("pair", agent.address, "--code", code, status=3))
    backbench("device", "show", "pi5")


def test_an_address_where_no_such_agent_listens_is_one_line(backbench: Any, address: str) -> None:
    code = ("--code", "AAAA-BBBB-CCCC-DDDD")
    assert "connection refused" in one_line(backbench("pair", "127.0.0.1:1", *code, status=3))
    assert "speaks no TLS" in one_line(backbench("pair", address, *code, status=3))
    assert "no host name" in one_line(backbench("pair", "pi 5", *code, status=2))


def test_a_name_that_another_device_has_is_refused_before_the_code_is_used_up(
    backbench: Any, agent: Agent, address: str
) -> None:
    backbench("device", "add", "pi5", address)
    code = agent.new_code()
    refused = one_line(backbench("pair", agent.address, "--code", code, "--name", "pi5", status=2))
    assert f"device pi5 exists, at {address}" in refused
    assert "cannot be a device name" in one_line(
        backbench("pair", agent.address, "--code", code, "--name", "pi 5", status=2)
    )
    backbench("pair", agent.address, "--code", code, "--name", "pi6")


def test_a_device_that_is_paired_again_keeps_its_name(paired: Any, agent: Agent) -> None:
    paired("pair", agent.address, "--code", agent.new_code())
    assert [device["name"] for device in paired("device", "list", "--json").json["devices"]] == ["pi5"]


def test_two_fleets_of_one_name_share_an_agent(paired: Any, elsewhere: Any, agent: Agent) -> None:
    elsewhere("pair", agent.address, "--code", agent.new_code(), "--name", "board")
    first, second = (command("pki", "list", "--json").json for command in (paired, elsewhere))
    assert first["authority"] == second["authority"]
    assert first["fleet_id"] != second["fleet_id"]
    paired("device", "show", "pi5")
    elsewhere("device", "show", "board")


def test_a_viewer_sees_and_does_nothing_and_sees_nothing_once_revoked(
    paired: Any, elsewhere: Any, agent: Agent, tmp_path: Path
) -> None:
    bundle = str(tmp_path / "ana.pem")
    paired("pki", "issue", "ana", "--role", "viewer", "--out", bundle)
    assert "viewer of fleet" in elsewhere("pki", "import", bundle).out
    elsewhere("device", "add", "board", agent.address, "--tls")
    refused = elsewhere("profile", *QUICK, "--device", "board", status=3)
    assert re.search(r"error: .* needs the role operator", refused.err)
    with Store.open(tmp_path / "elsewhere") as store, client_of(store, store.device("board")) as client:
        spec = RunSpec(new_run_id(), ModelRef(MODEL, "a" * 64, "skeleton"), 32, 32)
        with pytest.raises(PermissionDenied, match="SubmitRun needs the role operator"):
            client.submit_run(spec)
    elsewhere("device", "show", "board")

    assert "revoked: ana, client" in paired("pki", "revoke", "ana").out
    assert "the certificate of ana was revoked" in elsewhere("device", "show", "board", status=3).err
    states = {each["name"]: each["state"] for each in paired("pki", "list", "--json").json["issued"]}
    assert states["ana"] == "revoked"
    paired("device", "show", "pi5")


def test_a_device_that_was_off_learns_of_a_revocation_at_the_next_contact(
    paired: Any, elsewhere: Any, agent: Agent, tmp_path: Path, change: Callable[..., DeviceRecord]
) -> None:
    bundle = str(tmp_path / "ana.pem")
    paired("pki", "issue", "ana", "--role", "admin", "--out", bundle)
    elsewhere("pki", "import", bundle)
    elsewhere("device", "add", "board", agent.address, "--tls")
    change(address="127.0.0.1:1")
    said = paired("pki", "revoke", "ana")
    assert "pi5 does not know it yet and is told at the next contact" in said.err
    before = change(address=agent.address).revocation_number
    elsewhere("device", "show", "board")
    paired("device", "show", "pi5")
    assert change().revocation_number > before
    assert "the certificate of ana was revoked" in elsewhere("device", "show", "board", status=3).err


def test_a_device_certificate_is_renewed_by_itself_in_its_last_third_and_on_demand(
    paired: Any, agent: Agent, change: Callable[..., DeviceRecord]
) -> None:
    def certificates() -> int:
        return sum(each["kind"] == "device" for each in paired("pki", "list", "--json").json["issued"])

    end = change(certificate_not_after_unix_s=int(time.time()) + 31 * 86400).certificate_not_after_unix_s
    paired("device", "show", "pi5")
    assert (certificates(), change().certificate_not_after_unix_s) == (1, end)
    change(certificate_not_after_unix_s=int(time.time()) + 29 * 86400)
    paired("device", "show", "pi5")
    assert certificates() == 2
    assert change().certificate_not_after_unix_s > time.time() + 89 * 86400
    assert paired("pki", "renew", "pi5").out == "renewed: pi5\n"
    assert paired("pki", "renew").out == "renewed: pi5\n"
    assert certificates() == 4
    change(address="127.0.0.1:1")
    assert "error: pi5: no agent answers" in paired("pki", "renew", status=3).err
    change(address=agent.address)
    paired("device", "show", "pi5")


def test_another_device_of_the_fleet_is_never_taken_for_this_one(
    paired: Any, other: Agent, change: Callable[..., DeviceRecord]
) -> None:
    paired("pair", other.address, "--code", other.new_code(), "--name", "pi6")
    change(address=other.address)
    refused = paired("device", "show", "pi5", status=3)
    assert "another device answers" in refused.err
    assert "a certificate for another host" in refused.err


def test_an_agent_set_up_anew_is_told_apart_and_paired_again_under_its_name(
    paired: Any, other: Agent, change: Callable[..., DeviceRecord]
) -> None:
    before = change(address=other.address)
    assert f"pair again: backbench pair {other.address}" in paired("device", "show", "pi5", status=3).err
    paired("pair", other.address, "--code", other.new_code(), "--name", "pi5")
    paired("device", "show", "pi5")
    assert change().device_id != before.device_id


def test_a_revoked_device_is_not_talked_to_until_it_is_paired_again(paired: Any, agent: Agent) -> None:
    assert "revoked: pi5, device" in paired("pki", "revoke", "pi5").out
    refused = one_line(paired("push", MODEL, "--device", "pi5", status=3))
    assert "the certificate of pi5 was revoked, and nothing is sent to it" in refused
    paired("pair", agent.address, "--code", agent.new_code())
    paired("device", "show", "pi5")


def test_a_device_beyond_this_machine_needs_a_pairing_or_a_flag_that_says_insecure(backbench: Any) -> None:
    refused = one_line(backbench("device", "add", "pi5", "10.255.255.1", status=2))
    assert "backbench pair 10.255.255.1:50061" in refused
    assert "--insecure-plaintext" in refused
    backbench("device", "add", "pi5", "10.255.255.1", "--no-check")
    assert "backbench pair" in one_line(backbench("push", MODEL, "--device", "pi5", status=2))
    assert "drop one" in one_line(backbench("device", "add", "here", "127.0.0.1:1", "--tls", "--no-check", status=2))
