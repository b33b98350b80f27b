from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2

from backbench.agent.security.permissions import NEEDED, PAIRING_CALLS, check_role
from backbench.domain.errors import PermissionDenied
from backbench.domain.security import Caller, Role
from backbench.v1 import artifact_pb2, device_pb2, run_pb2, security_pb2

FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR for module in (artifact_pb2, device_pb2, run_pb2, security_pb2, health_pb2)
)
NOT_EVERYWHERE = {"/grpc.health.v1.Health/List"}
READING = {"Get", "List", "Watch", "Find", "Query", "Check"}


def calls() -> Iterator[str]:
    for file in FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}"


def may(role: Role, method: str) -> bool:
    try:
        check_role(method, Caller("somebody", role))
    except PermissionDenied:
        return False
    return True


def test_every_call_of_every_service_has_its_role_and_no_other_has() -> None:
    assert set(calls()) == set(NEEDED) - (NOT_EVERYWHERE - set(calls()))


def test_a_viewer_may_read_and_tell_of_revocations_and_nothing_else() -> None:
    allowed = {method.rpartition("/")[2] for method in NEEDED if may(Role.VIEWER, method)}
    assert {name for name in allowed if not name.startswith(tuple(READING))} == {"InstallRevocations"}


def test_every_role_may_what_the_role_below_it_may() -> None:
    ranks = (Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.LOCAL)
    for lower, higher in pairwise(ranks):
        below, above = ({method for method in NEEDED if may(role, method)} for role in (lower, higher))
        assert below < above
    assert all(may(Role.LOCAL, method) for method in NEEDED)


def test_a_pairing_code_opens_two_calls() -> None:
    assert {method for method in NEEDED if may(Role.PAIRING, method)} == PAIRING_CALLS
    assert {method.rpartition("/")[2] for method in PAIRING_CALLS} == {"GetSecurity", "InstallCertificate"}


def test_a_call_that_is_in_no_table_is_for_nobody_but_the_device() -> None:
    assert [role for role in Role if may(role, "/backbench.v1.RunService/NewAndForgotten")] == [Role.LOCAL]


@pytest.mark.parametrize(
    ("role", "method", "text"),
    [
        (Role.VIEWER, "SubmitRun", "SubmitRun needs the role operator and bea is a viewer"),
        (Role.PAIRING, "SubmitRun", "SubmitRun needs the role operator and bea holds a pairing code only"),
    ],
)
def test_a_refusal_names_the_call_the_role_and_the_caller(role: Role, method: str, text: str) -> None:
    with pytest.raises(PermissionDenied, match=text):
        check_role(f"/backbench.v1.RunService/{method}", Caller("bea", role))
