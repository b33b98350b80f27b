"""Everything that is to be kept out, tried on a real agent over a real socket."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
import ssl
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from onnx import TensorProto, helper
from tests.security.fleet import (
    DEADLINE_S,
    Authority,
    Client,
    TlsAgent,
    cut_off,
    eventually,
    install,
    install_revocations,
    refused,
    security_of,
)

from backbench.domain.errors import (
    InvalidArgument,
    MessageTooLarge,
    PermissionDenied,
    Unauthenticated,
)
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec, Scenario
from backbench.domain.security import Role
from backbench.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    device_pb2,
    device_pb2_grpc,
    run_pb2,
    run_pb2_grpc,
    security_pb2_grpc,
)
from backbench.v1 import security_pb2 as pb
from backbench.wire.mapping import to_message


def test_a_member_of_the_fleet_is_let_in_and_known_by_name_and_role(agent: TlsAgent, authority: Authority) -> None:
    client = authority.client(Role.VIEWER, "bea")
    caller = client.security(agent.address).caller
    assert (caller.name, caller.role, caller.fleet_id) == ("bea", pb.ROLE_VIEWER, authority.fleet_id)
    assert caller.serial == f"{client.serial:x}"


def test_no_certificate_is_refused_and_logged(agent: TlsAgent, authority: Authority) -> None:
    credentials = grpc.ssl_channel_credentials(authority.pem)
    with grpc.secure_channel(agent.address, credentials, authority.client().options) as channel:
        cut_off(lambda: security_of(channel))
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in agent.log()


def test_a_certificate_of_a_wrong_authority_is_refused_and_logged(agent: TlsAgent, authority: Authority) -> None:
    stranger = Authority().client(Role.ADMIN)
    stranger.authority_pem, stranger.server_name = authority.pem, authority.client().server_name
    cut_off(lambda: stranger.security(agent.address))
    assert "CERTIFICATE_VERIFY_FAILED" in agent.log()


def test_an_expired_certificate_is_refused(agent: TlsAgent, authority: Authority) -> None:
    cut_off(lambda: authority.client(lifetime_s=60, began_s=3600).security(agent.address))


def test_a_revoked_certificate_is_refused_at_once_and_logged(agent: TlsAgent, authority: Authority) -> None:
    client = authority.client(name="mallory")
    with client.channel(agent.address) as channel, authority.client().channel(agent.address) as other:
        assert security_of(channel).device_id
        install_revocations(other, authority.revoke(client))
        assert "was revoked" in refused(Unauthenticated, lambda: security_of(channel)).message
    refused(Unauthenticated, lambda: client.security(agent.address))
    assert "GetSecurity of 'mallory'" in agent.log()


def test_a_call_in_progress_ends_when_its_certificate_is_revoked(agent: TlsAgent, authority: Authority) -> None:
    client = authority.client()
    with client.channel(agent.address) as channel, authority.client().channel(agent.address) as other:
        stub = device_pb2_grpc.DeviceServiceStub(channel)
        watching = stub.WatchTelemetry(device_pb2.WatchTelemetryRequest(), timeout=DEADLINE_S)
        next(watching)
        install_revocations(other, authority.revoke(client))
        assert "was revoked" in refused(Unauthenticated, lambda: list(watching)).message


def test_an_upload_in_progress_ends_when_its_certificate_is_revoked(agent: TlsAgent, authority: Authority) -> None:
    client, data, over = authority.client(), b"in pieces" * 1000, threading.Event()

    def pieces() -> Iterator[artifact_pb2.UploadRequest]:
        yield first_chunk(data, data[:1000])
        over.wait(DEADLINE_S)

    with client.channel(agent.address) as channel, authority.client().channel(agent.address) as other:
        upload = artifact_pb2_grpc.ArtifactServiceStub(channel).Upload.future(pieces(), timeout=DEADLINE_S)
        eventually(lambda: committed(other, data) == 1000)
        install_revocations(other, authority.revoke(client))
        refused(Unauthenticated, upload.result)
        over.set()
        assert committed(other, data) == 1000


def test_a_call_in_progress_ends_when_its_certificate_expires(agent: TlsAgent, authority: Authority) -> None:
    for lifetime_s in (2, 6, 18):  # one that outlives the handshake on a slow machine too
        with authority.client(lifetime_s=lifetime_s).channel(agent.address) as channel:
            stub = device_pb2_grpc.DeviceServiceStub(channel)
            watching = stub.WatchTelemetry(device_pb2.WatchTelemetryRequest(), timeout=DEADLINE_S)
            try:
                next(watching)
            except grpc.RpcError:
                continue
            assert "expired" in refused(Unauthenticated, lambda: list(watching)).message  # noqa: B023
            return
    raise AssertionError("no handshake came to its end in time")


def test_a_viewer_submits_pushes_and_cancels_nothing(agent: TlsAgent, authority: Authority) -> None:
    with authority.client(Role.VIEWER, "bea").channel(agent.address) as channel:
        runs, artifacts = run_pb2_grpc.RunServiceStub(channel), artifact_pb2_grpc.ArtifactServiceStub(channel)
        assert not runs.ListRuns(run_pb2.ListRunsRequest(), timeout=DEADLINE_S).runs
        for call in (
            lambda: runs.SubmitRun(run_pb2.SubmitRunRequest(), timeout=DEADLINE_S),
            lambda: runs.CancelRun(run_pb2.CancelRunRequest(run_id=new_run_id()), timeout=DEADLINE_S),
            lambda: artifacts.Upload(iter([first_chunk(b"x", b"x")]), timeout=DEADLINE_S),
        ):
            message = refused(PermissionDenied, call).message
            assert "needs the role operator and bea is a viewer" in message
    assert "refused /backbench.v1.RunService/SubmitRun of 'bea' from ipv4:127.0.0.1:" in agent.log()


def test_an_operator_installs_no_certificates(agent: TlsAgent, authority: Authority) -> None:
    with authority.client(Role.OPERATOR).channel(agent.address) as channel:
        request = authority.membership(security_of(channel))
        assert "role admin" in refused(PermissionDenied, lambda: install(channel, request)).message


def test_an_admin_is_no_user_of_the_device(agent: TlsAgent, authority: Authority) -> None:
    with authority.client(Role.ADMIN).channel(agent.address) as channel:
        stub = security_pb2_grpc.SecurityServiceStub(channel)
        refused(PermissionDenied, lambda: stub.OpenPairing(pb.OpenPairingRequest(), timeout=DEADLINE_S))
        remove = pb.RemoveFleetRequest(fleet_id=authority.fleet_id)
        refused(PermissionDenied, lambda: stub.RemoveFleet(remove, timeout=DEADLINE_S))


@pytest.mark.parametrize("role", [Role.LOCAL, Role.PAIRING])
def test_a_role_that_is_not_a_fleets_to_give_opens_nothing(agent: TlsAgent, authority: Authority, role: Role) -> None:
    client = authority.client(role)
    assert "gives no role" in refused(Unauthenticated, lambda: client.security(agent.address)).message


def test_an_agents_own_certificate_does_not_make_it_a_caller(agent: TlsAgent, authority: Authority) -> None:
    cut_off(lambda: authority.client(None).security(agent.address))


def test_a_caller_never_mistakes_the_agent_of_another_fleet_for_its_own(
    agent: TlsAgent, authority: Authority, other_authority: Authority
) -> None:
    client = authority.client()
    client.authority_pem, client.server_name = other_authority.pem, other_authority.client().server_name
    cut_off(lambda: client.security(agent.address))


def test_tls_1_2_is_refused_and_1_3_is_not(agent: TlsAgent) -> None:
    assert tls_version(agent.address, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, OSError)):
        tls_version(agent.address, ssl.TLSVersion.TLSv1_2)
    assert "NO_SHARED_CIPHER" in agent.log()


def test_plain_text_gets_no_answer(agent: TlsAgent) -> None:
    with grpc.insecure_channel(agent.address) as channel:
        cut_off(lambda: security_of(channel))


def test_an_oversized_message_is_refused(agent: TlsAgent, authority: Authority) -> None:
    with authority.client(Role.ADMIN).channel(agent.address) as channel:
        request = pb.InstallCertificateRequest(certificate_pem=b"x" * (5 << 20))
        refused(MessageTooLarge, lambda: install(channel, request))
        small_enough = pb.InstallCertificateRequest(certificate_pem=b"x" * (2 << 20))
        refused(InvalidArgument, lambda: install(channel, small_enough))


def test_a_message_that_is_small_only_until_it_is_unpacked_is_refused(agent: TlsAgent, authority: Authority) -> None:
    with authority.client(Role.ADMIN).channel(agent.address) as channel:
        stub = security_pb2_grpc.SecurityServiceStub(channel)
        bomb = pb.InstallCertificateRequest(certificate_pem=bytes(32 << 20))
        gzip = grpc.Compression.Gzip
        refused(MessageTooLarge, lambda: stub.InstallCertificate(bomb, timeout=DEADLINE_S, compression=gzip))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a" * 63 + "/", "A" * 64, ""])
def test_an_artifact_is_named_by_a_digest_and_never_by_a_path(agent: TlsAgent, authority: Authority, name: str) -> None:
    with authority.client().channel(agent.address) as channel:
        stub = artifact_pb2_grpc.ArtifactServiceStub(channel)
        header = artifact_pb2.UploadHeader(sha256=name, size_bytes=1)
        upload = artifact_pb2.UploadRequest(header=header, data=b"x")
        refused(InvalidArgument, lambda: stub.Upload(iter([upload]), timeout=DEADLINE_S))
        delete = artifact_pb2.DeleteArtifactRequest(sha256=name)
        refused(InvalidArgument, lambda: stub.DeleteArtifact(delete, timeout=DEADLINE_S))


def test_the_name_that_people_give_an_artifact_is_never_a_path(agent: TlsAgent, authority: Authority) -> None:
    data, before = b"harmless", {path.name for path in agent.data_dir.parent.iterdir()}
    with authority.client().channel(agent.address) as channel:
        chunk = first_chunk(data, data)
        chunk.header.name = "../../outside"
        stub = artifact_pb2_grpc.ArtifactServiceStub(channel)
        assert stub.Upload(iter([chunk]), timeout=DEADLINE_S).complete
    assert {path.name for path in agent.data_dir.parent.iterdir()} == before
    assert (agent.data_dir / "artifacts" / hashlib.sha256(data).hexdigest()).read_bytes() == data


ENGINE = b"ftrt" + bytes(range(256)) * 8


class _Opened:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "kind", ["a pickle", "a zip archive", "a TensorRT engine", "a TensorRT engine in a model", "a script"]
)
def test_code_and_archives_are_no_models_and_are_never_opened(
    agent: TlsAgent, authority: Authority, tmp_path: Path, kind: str
) -> None:
    opened, archive = tmp_path / "opened", io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("../../model.onnx", bytes(8 << 20))
    data = {
        "a pickle": pickle.dumps(_Opened(opened)),
        "a zip archive": archive.getvalue(),
        "a TensorRT engine": ENGINE,
        "a TensorRT engine in a model": model_with(ENGINE),
        "a script": f"#!/bin/sh\ntouch {opened}\n".encode(),
    }[kind]
    sha256 = hashlib.sha256(data).hexdigest()
    spec = RunSpec(
        new_run_id(), ModelRef(kind, sha256, "file"), 16, 16, scenario=Scenario(frame_count=1), memory_pass=False
    )
    with authority.client().channel(agent.address) as channel:
        artifact_pb2_grpc.ArtifactServiceStub(channel).Upload(iter([first_chunk(data, data)]), timeout=DEADLINE_S)
        stub = run_pb2_grpc.RunServiceStub(channel)
        request = run_pb2.SubmitRunRequest(spec=to_message(spec, run_pb2.RunSpec()))
        stub.SubmitRun(request, timeout=DEADLINE_S)
        watched = stub.WatchRun(run_pb2.WatchRunRequest(run_id=spec.run_id, from_sequence=1), timeout=DEADLINE_S)
        (result,) = (each.event.result for each in watched if each.event.HasField("result"))
    assert result.state == run_pb2.RUN_STATE_FAILED
    assert result.failure.reason == run_pb2.FAILURE_REASON_INVALID_MODEL, result.failure
    assert not opened.exists()


def test_secrets_are_in_no_log_and_in_no_file_that_others_can_read(agent: TlsAgent) -> None:
    code = agent.new_code()
    Client.with_code(code).security(agent.address)
    assert code not in agent.log()
    assert "PRIVATE KEY" not in agent.log()
    files = [path for path in agent.data_dir.rglob("*") if path.is_file() or path.is_socket()]
    assert files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    folders = [path for path in agent.data_dir.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in [agent.data_dir, *folders]} == {0o700}
    assert not [path for path in files if path.is_file() and code.encode() in path.read_bytes()]


def model_with(engine: bytes) -> bytes:
    """An ONNX model whose only node holds what was compiled elsewhere, as ONNX Runtime's TensorRT provider saves it."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 16, 16]) for name in ("x", "y")]
    node = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=1, main_context=1, ep_cache_context=engine,
        source="TensorrtExecutionProvider",
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "engine", ends[:1], ends[1:])
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def first_chunk(data: bytes, part: bytes) -> artifact_pb2.UploadRequest:
    header = artifact_pb2.UploadHeader(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    return artifact_pb2.UploadRequest(header=header, data=part)


def committed(channel: grpc.Channel, data: bytes) -> int:
    stub = artifact_pb2_grpc.ArtifactServiceStub(channel)
    request = artifact_pb2.QueryUploadRequest(sha256=hashlib.sha256(data).hexdigest())
    return stub.QueryUpload(request, timeout=DEADLINE_S).committed_bytes


def tls_version(address: str, version: ssl.TLSVersion) -> str | None:
    """Shakes hands with Python's own TLS; the certificate that is missing is asked for afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE_S) as plain, context.wrap_socket(plain) as secure:
        return secure.version()
