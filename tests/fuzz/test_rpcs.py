"""Whatever is sent to any method is answered in time with OK or a documented status, and the agent serves on."""

from __future__ import annotations

import os

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.calls import METHODS, Method, call
from tests.fuzz.conftest import EXAMPLES_VARIABLE, Target, example_count
from tests.fuzz.strategies import Messages

from backbench.v1 import artifact_pb2, run_pb2

LONG = EXAMPLES_VARIABLE in os.environ
UPLOAD = next(method for method in METHODS if str(method) == "Upload")
SUBMIT = next(method for method in METHODS if str(method) == "SubmitRun")


def fuzzed(examples: int) -> settings:
    """The settings of a test: short and always the same, or as long as somebody asked, and then always another."""
    return settings(
        max_examples=example_count(examples),
        derandomize=not LONG,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def sent(target: Target, method: Method, *requests: bytes) -> str:
    """What comes back."""
    return call(target.channel, method, requests)


@pytest.mark.parametrize("method", METHODS, ids=str)
@fuzzed(12)
@given(data=st.data())
def test_a_message_of_any_content_gets_a_documented_status(method: Method, target: Target, data: st.DataObject) -> None:
    message = data.draw(Messages(target.known()).of(method.request))
    sent(target, method, message.SerializeToString())


@fuzzed(150)
@given(data=st.data())
def test_a_run_that_is_wrong_in_one_to_three_places_gets_a_documented_status(
    target: Target, data: st.DataObject
) -> None:
    request = data.draw(Messages(target.known()).altered(target.submission()))
    sent(target, SUBMIT, request.SerializeToString())
    if sent(target, SUBMIT, request.SerializeToString()) == "OK":
        cancel = run_pb2.CancelRunRequest(run_id=request.spec.run_id)
        sent(target, next(method for method in METHODS if str(method) == "CancelRun"), cancel.SerializeToString())


@pytest.mark.parametrize("method", METHODS, ids=str)
@fuzzed(6)
@given(data=st.data())
def test_bytes_that_are_no_message_get_a_documented_status(method: Method, target: Target, data: st.DataObject) -> None:
    garbage = st.one_of(
        st.binary(max_size=200), st.just(b"\xff" * 64), st.just(b"\x0a\xff\xff\xff\xff\x0f"), st.just(b"\x0b" * 4000),
        st.binary(max_size=40).map(lambda tail: target.submission().SerializeToString()[:-7] + tail),
    )  # fmt: skip
    sent(target, method, data.draw(garbage))


def test_bytes_that_are_no_message_are_an_invalid_argument(target: Target) -> None:
    for method in METHODS:
        assert sent(target, method, b"\xff" * 64).startswith("INVALID_ARGUMENT"), str(method)


@fuzzed(40)
@given(data=st.data())
def test_an_upload_of_anything_after_its_header_gets_a_documented_status(target: Target, data: st.DataObject) -> None:
    messages = Messages(target.known())
    header = data.draw(messages.of(artifact_pb2.UploadHeader.DESCRIPTOR))
    first = artifact_pb2.UploadRequest(header=header, data=data.draw(st.sampled_from((b"", b"x", target.model))))
    chunk = st.one_of(messages.of(UPLOAD.request).map(lambda message: message.SerializeToString()), st.binary())
    sent(target, UPLOAD, first.SerializeToString(), *data.draw(st.lists(chunk, max_size=4)))


@pytest.mark.parametrize("method", [method for method in METHODS if not method.server_streams], ids=str)
def test_a_message_above_the_limit_is_refused(method: Method, target: Target) -> None:
    status = sent(target, method, b"\0" * (5 << 20))
    assert status.startswith("RESOURCE_EXHAUSTED")


def test_a_method_that_does_not_exist_is_unimplemented(target: Target) -> None:
    explode: grpc.UnaryUnaryMultiCallable[bytes, bytes] = target.channel.unary_unary("/backbench.v1.RunService/Explode")
    with pytest.raises(grpc.RpcError) as raised:
        explode(b"", timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_stream_that_is_left_in_its_middle_harms_nobody(target: Target) -> None:
    header = artifact_pb2.UploadHeader(sha256="ab" * 32, size_bytes=1 << 20, name="left")
    upload: grpc.StreamUnaryMultiCallable[bytes, bytes] = target.channel.stream_unary(UPLOAD.path)
    for _ in range(20):
        requests = iter([artifact_pb2.UploadRequest(header=header, data=b"x").SerializeToString()])
        upload.future(requests, timeout=5).cancel()
    assert sent(target, SUBMIT, run_pb2.SubmitRunRequest().SerializeToString()).startswith("INVALID_ARGUMENT")
