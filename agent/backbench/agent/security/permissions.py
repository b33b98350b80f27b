"""Which role each call needs: the one table. A call that is not in it is open to nobody but local callers."""

from __future__ import annotations

from collections.abc import Mapping

from backbench.domain.errors import PermissionDenied
from backbench.domain.security import Caller, Role

_RANK = {Role.VIEWER: 1, Role.OPERATOR: 2, Role.ADMIN: 3, Role.LOCAL: 4}

NEEDED: Mapping[str, Role] = {
    "/grpc.health.v1.Health/Check": Role.VIEWER,
    "/grpc.health.v1.Health/List": Role.VIEWER,
    "/grpc.health.v1.Health/Watch": Role.VIEWER,
    "/backbench.v1.DeviceService/GetDevice": Role.VIEWER,
    "/backbench.v1.DeviceService/GetStatus": Role.VIEWER,
    "/backbench.v1.DeviceService/WatchTelemetry": Role.VIEWER,
    "/backbench.v1.ArtifactService/FindMissing": Role.VIEWER,
    "/backbench.v1.ArtifactService/QueryUpload": Role.VIEWER,
    "/backbench.v1.ArtifactService/ListArtifacts": Role.VIEWER,
    "/backbench.v1.ArtifactService/Upload": Role.OPERATOR,
    "/backbench.v1.ArtifactService/DeleteArtifact": Role.OPERATOR,
    "/backbench.v1.RunService/GetRun": Role.VIEWER,
    "/backbench.v1.RunService/ListRuns": Role.VIEWER,
    "/backbench.v1.RunService/WatchRun": Role.VIEWER,
    "/backbench.v1.RunService/SubmitRun": Role.OPERATOR,
    "/backbench.v1.RunService/CancelRun": Role.OPERATOR,
    "/backbench.v1.RunService/AcknowledgeRun": Role.OPERATOR,
    "/backbench.v1.RunService/DeleteRun": Role.OPERATOR,
    "/backbench.v1.RunService/AcquireLease": Role.OPERATOR,
    "/backbench.v1.RunService/RenewLease": Role.OPERATOR,
    "/backbench.v1.RunService/ReleaseLease": Role.OPERATOR,
    "/backbench.v1.SecurityService/GetSecurity": Role.VIEWER,
    "/backbench.v1.SecurityService/InstallRevocations": Role.VIEWER,
    "/backbench.v1.SecurityService/InstallCertificate": Role.ADMIN,
    "/backbench.v1.SecurityService/OpenPairing": Role.LOCAL,
    "/backbench.v1.SecurityService/RemoveFleet": Role.LOCAL,
}
"""The lowest role that may make a call; every higher one may too."""

PAIRING_CALLS = frozenset(
    {"/backbench.v1.SecurityService/GetSecurity", "/backbench.v1.SecurityService/InstallCertificate"}
)
"""All that the holder of a pairing code may call."""


def check_role(method: str, caller: Caller) -> None:
    """Raises PermissionDenied, which names the role that the call needs."""
    if caller.role is Role.PAIRING and method in PAIRING_CALLS:
        return
    needed = NEEDED.get(method, Role.LOCAL)
    if _RANK.get(caller.role, 0) >= _RANK[needed]:
        return
    name = method.rpartition("/")[2]
    if needed is Role.LOCAL:
        raise PermissionDenied(f"{name} is for users of the device itself; run backbench-agent there")
    raise PermissionDenied(
        f"{name} needs the role {needed.value} and {caller.name} {_being(caller.role)}; "
        "ask whoever keeps the fleet's authority for a certificate of that role"
    )


def _being(role: Role) -> str:
    if role is Role.PAIRING:
        return "holds a pairing code only"
    return f"is {'an' if role.value[0] in 'aeiou' else 'a'} {role.value}"
