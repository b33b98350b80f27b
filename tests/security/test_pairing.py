"""How an agent and a fleet come to trust each other, on real agents over real sockets."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from tests.security.fleet import (
    DEADLINE_S,
    Authority,
    Client,
    TlsAgent,
    agent_command,
    cut_off,
    install,
    install_revocations,
    refused,
    security_of,
)

from backbench.domain.errors import InvalidArgument, PermissionDenied, Unauthenticated
from backbench.domain.security import Role
from backbench.v1 import device_pb2, device_pb2_grpc, run_pb2, run_pb2_grpc
from backbench.v1 import security_pb2 as pb
from backbench.wire import certificates as c
from backbench.wire import pairing as codes

Start = Callable[..., TlsAgent]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts agents over one folder, one after another."""
    started: list[TlsAgent] = []

    def begin(*arguments: str) -> TlsAgent:
        started.append(TlsAgent(tmp_path, *(arguments or ("--tls",))))
        return started[-1]

    yield begin
    for agent in started:
        if agent.process.poll() is None:
            agent.stop()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsAgent]:
    """One agent for every test that makes codes and fleets of its own."""
    agent = TlsAgent(tmp_path_factory.mktemp("agent"), "--tls")
    yield agent
    agent.stop()


def test_a_code_is_used_up_by_whoever_joins_first(agent: TlsAgent) -> None:
    code = agent.new_code()
    late, stranger = Client.with_code(code), Authority()
    with late.channel(agent.address) as channel:
        request = stranger.membership(security_of(channel))
        with Client.with_code(code).channel(agent.address) as first:
            install(first, Authority().membership(security_of(first)))
        assert "used already" in refused(PermissionDenied, lambda: install(channel, request)).message
        assert "used already" in refused(PermissionDenied, lambda: security_of(channel)).message
    again = Client.with_code(code)
    assert "backbench-agent pair" in refused(PermissionDenied, lambda: again.security(agent.address)).message
    cut_off(lambda: stranger.client(Role.ADMIN).security(agent.address))
    assert "refused /backbench.v1.SecurityService/InstallCertificate of 'pairing-" in agent.log()


def test_a_code_that_was_never_made_opens_nothing_and_shows_its_holder_another_agent(agent: TlsAgent) -> None:
    cut_off(lambda: Client.with_code(codes.new_code()).security(agent.address))
    assert Client.with_code(agent.new_code()).security(agent.address).device_id


def test_a_code_is_good_for_joining_and_nothing_else(agent: TlsAgent) -> None:
    holder = Client.with_code(agent.new_code())
    caller = holder.security(agent.address).caller
    assert (caller.role, caller.fleet_id) == (pb.ROLE_PAIRING, "")
    with holder.channel(agent.address) as channel:
        devices, runs = device_pb2_grpc.DeviceServiceStub(channel), run_pb2_grpc.RunServiceStub(channel)
        refused(PermissionDenied, lambda: devices.GetDevice(device_pb2.GetDeviceRequest(), timeout=DEADLINE_S))
        refused(PermissionDenied, lambda: runs.SubmitRun(run_pb2.SubmitRunRequest(), timeout=DEADLINE_S))
        refused(PermissionDenied, lambda: install_revocations(channel, Authority().revocations()))


def test_a_certificate_that_is_not_for_this_agent_is_refused_and_leaves_the_code_as_it_was(agent: TlsAgent) -> None:
    code = agent.new_code()
    mine, other = Authority(), Authority()
    with Client.with_code(code).channel(agent.address) as channel:
        found = security_of(channel)
        another_key = pb.GetSecurityResponse(
            device_id=found.device_id, public_key_der=c.public_key_der(c.new_key().public_key())
        )
        another_name = pb.GetSecurityResponse(device_id="f" * 32, public_key_der=found.public_key_der)
        for request, what in (
            (mine.membership(another_key), "another key"),
            (mine.membership(another_name), "another agent"),
            (mine.membership(found, authority_pem=other.pem), "not signed by that authority"),
            (mine.membership(found, authority_pem=mine.client().certificate_pem), "not a self-signed one"),
            (mine.membership(found, revocations_pem=other.revocations()), "not signed by the fleet's authority"),
            (mine.membership(found, revocations_pem=b"nonsense"), "not a numbered list"),
            (mine.membership(found, certificate_pem=b"nonsense"), "not a certificate"),
            (pb.InstallCertificateRequest(), "not a certificate"),
        ):
            assert what in refused(InvalidArgument, lambda: install(channel, request)).message  # noqa: B023
        install(channel, mine.membership(found))
    assert membership(mine, agent).revocation_number == 0


def test_an_agent_serves_two_fleets_and_keeps_them_apart(agent: TlsAgent) -> None:
    one, two = Authority(), Authority()
    agent.join(one)
    agent.join(two)
    for authority in (one, two):
        assert authority.client().security(agent.address).caller.fleet_id == authority.fleet_id
    with one.client(Role.ADMIN).channel(agent.address) as channel:
        message = refused(PermissionDenied, lambda: install(channel, two.membership(security_of(channel)))).message
        assert "pairing code" in message
        refused(InvalidArgument, lambda: install_revocations(channel, two.revoke(two.client())))
    listed = json.loads(agent.command("fleets", "--json").stdout)["fleets"]
    assert {one.fleet_id, two.fleet_id} <= {fleet["fleet_id"] for fleet in listed}


def test_leaving_a_fleet_ends_its_calls_and_lets_the_others_be(agent: TlsAgent) -> None:
    one, two = Authority(), Authority()
    agent.join(one)
    agent.join(two)
    with one.client().channel(agent.address) as channel:
        stub = device_pb2_grpc.DeviceServiceStub(channel)
        watching = stub.WatchTelemetry(device_pb2.WatchTelemetryRequest(), timeout=DEADLINE_S)
        next(watching)
        assert agent.command("fleets", "remove", one.fleet_id[:8]).stdout == f"left fleet {one.fleet_id}\n"
        assert "has left fleet" in refused(Unauthenticated, lambda: list(watching)).message
    cut_off(lambda: one.client().security(agent.address))
    assert two.client().security(agent.address).device_id
    missing = agent.command("fleets", "remove", one.fleet_id)
    assert (missing.status, missing.stderr.count("\n")) == (2, 1)


def test_an_admin_renews_the_agents_certificate_and_new_connections_see_it(agent: TlsAgent) -> None:
    fleet = Authority()
    agent.join(fleet)
    with fleet.client(Role.ADMIN).channel(agent.address) as channel:
        before, end = security_of(channel), membership(fleet, agent).not_after_unix_s
        public = c.public_key_from_der(before.public_key_der)
        signed = c.sign_device(fleet.key, fleet.certificate, public, before.device_id, lifetime=c.DEVICE_LIFETIME * 2)
        install(channel, fleet.membership(before, certificate_pem=c.to_pem(signed)))
    assert membership(fleet, agent).not_after_unix_s > end
    with socket.create_connection(("127.0.0.1", int(agent.address.rpartition(":")[2])), DEADLINE_S) as plain:
        shown = shown_certificate(plain, c.any_device_name(fleet.fleet_id))
    assert shown.serial_number == signed.serial_number


def test_a_list_of_revoked_certificates_never_goes_back(agent: TlsAgent) -> None:
    fleet = Authority()
    agent.join(fleet)
    out, old = fleet.client(), fleet.revocations(0)
    with fleet.client(Role.ADMIN).channel(agent.address) as channel:
        assert install_revocations(channel, fleet.revoke(out)) == 1
        assert install_revocations(channel, old) == 1
        install(channel, fleet.membership(security_of(channel), revocations_pem=old))
        assert membership(fleet, agent).revocation_number == 1
    refused(Unauthenticated, lambda: out.security(agent.address))


def test_fleets_and_revocations_outlive_a_restart_and_codes_do_not(start: Start) -> None:
    agent, fleet = start(), Authority()
    agent.join(fleet)
    out, code = fleet.client(), agent.new_code()
    with fleet.client().channel(agent.address) as channel:
        install_revocations(channel, fleet.revoke(out))
    agent.stop()
    agent = start()
    assert fleet.client().security(agent.address).device_id
    refused(Unauthenticated, lambda: out.security(agent.address))
    cut_off(lambda: Client.with_code(code).security(agent.address))


def test_a_damaged_fleet_is_left_out_and_said_and_can_be_removed(start: Start) -> None:
    agent, one, two = start(), Authority(), Authority()
    agent.join(one)
    agent.join(two)
    agent.stop()
    (agent.data_dir / "security/fleets" / one.fleet_id / "revocations.pem").write_bytes(b"damaged")
    left = [agent.data_dir / "security" / folder / ".a.pem.0a1b2c3d.part" for folder in ("", f"fleets/{two.fleet_id}")]
    for path in left:
        path.write_bytes(b"cut short")
    agent = start()
    assert not [path for path in left if path.exists()]
    cut_off(lambda: one.client().security(agent.address))
    assert two.client().security(agent.address).device_id
    assert f"fleet {one.fleet_id} is left out" in agent.log()
    assert agent.command("fleets", "remove", one.fleet_id).status == 0


def test_a_fifth_open_code_is_refused_and_the_first_is_printed_at_the_start(start: Start) -> None:
    agent = start()
    codes = {agent.printed_code(), *(agent.new_code() for _ in range(3))}
    for code in codes:
        assert Client.with_code(code).security(agent.address).device_id
    fifth = agent.command("pair")
    assert (fifth.status, fifth.stdout, fifth.stderr.count("\n")) == (3, "", 1)
    assert "4 pairing codes are open already" in fifth.stderr


def test_the_commands_of_the_device_need_an_agent_there(tmp_path: Path) -> None:
    for command in (["pair"], ["fleets"], ["fleets", "remove", "ab"]):
        done = agent_command(*command, "--data-dir", str(tmp_path))
        assert (done.status, done.stdout, done.stderr.count("\n")) == (3, "", 1)
        assert "backbench-agent serve" in done.stderr


def test_a_killed_agents_socket_is_no_agent(start: Start) -> None:
    agent = start()
    agent.process.kill()
    agent.process.wait()
    done = agent.command("pair")
    assert (done.status, done.stderr.count("\n")) == (3, 1)
    assert "no agent runs" in done.stderr
    assert agent.process.stdout is not None
    agent.process.stdout.close()
    assert start().command("pair").status == 0


@pytest.mark.parametrize("minutes", ["0.5", "61", "-1"])
def test_a_code_lives_for_one_to_sixty_minutes(agent: TlsAgent, minutes: str) -> None:
    done = agent.command("pair", "--minutes", minutes)
    assert (done.status, done.stderr.count("\n")) == (2, 1)


def test_a_code_is_told_with_its_end_as_one_document(agent: TlsAgent) -> None:
    document = json.loads(agent.command("pair", "--minutes", "5", "--json").stdout)
    assert set(document) == {"code", "expires"}
    assert codes.normal_code(document["code"]) == document["code"]


def test_an_agent_in_plain_text_is_not_paired_and_loads_nothing_for_it(start: Start) -> None:
    agent = start("--log-level", "warning")
    with grpc.insecure_channel(agent.address) as channel:
        found = security_of(channel)
        assert (found.caller.role, found.public_key_der, list(found.fleets)) == (pb.ROLE_LOCAL, b"", [])
    done = agent.command("pair")
    assert (done.status, done.stderr.count("\n")) == (3, 1)
    assert "--tls" in done.stderr
    mapped = Path(f"/proc/{agent.process.pid}/maps").read_text()
    assert "cryptography" not in mapped
    assert not (agent.data_dir / "security").exists()
    assert "Handshake" not in agent.log()


@pytest.mark.parametrize("arguments", [["--tls", "--insecure-plaintext"], ["--tls-key", "x"]])
def test_contradicting_and_unknown_options_are_one_line(tmp_path: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "backbench.agent", "serve", *arguments, "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not (tmp_path / "data").exists()


def membership(authority: Authority, agent: TlsAgent) -> pb.FleetMembership:
    """What the agent tells a member of its own fleet."""
    (found,) = (
        fleet for fleet in authority.client().security(agent.address).fleets if fleet.fleet_id == authority.fleet_id
    )
    return found


def shown_certificate(plain: socket.socket, server_name: str) -> x509.Certificate:
    """What the agent shows to whoever asks for this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(plain, server_hostname=server_name) as secure:
        der = secure.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)
