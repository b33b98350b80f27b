"""Every error that Backbench raises on purpose, grouped by what the caller should do about it.

    BackbenchError
    ├── InvalidRequest   change the request        InvalidArgument InvalidRunSpec InvalidBudget InvalidModel
    │                                              InvalidImage ShapeMismatch UnknownBackbone UnknownBackend
    ├── NotFound         create it or name it right  ArtifactNotFound RunNotFound DeviceNotFound LeaseNotFound
    ├── NotReady         fix the device            BackendUnavailable VersionMismatch RunNotFinished
    │                                              StoreUnusable AddressUnusable PairingUnavailable
    ├── Busy             wait, then try again      DeviceBusy StaleEpoch
    ├── Exhausted        free something            QueueFull DiskFull MessageTooLarge TooManyCalls
    │                                              ResultsNotCollected
    ├── Corrupt          send it again             DigestMismatch UploadOutOfStep JournalCorrupt
    ├── Unreachable      try again later           AgentUnreachable AgentStopping
    ├── NotAllowed       fix the credentials       Unauthenticated PermissionDenied UntrustedAgent
    ├── TimedOut         decide                    DeadlineExceeded
    └── Cancelled        decide                    CallCancelled

A run that fails on a device is not an error of this kind: it is a result (`backbench.domain.run.RunFailure`).
Any other exception is a bug in Backbench.
"""

from __future__ import annotations

from typing import ClassVar


class BackbenchError(Exception):
    """A situation that Backbench knows; its text is one line that names the thing, the cause and the remedy.

    `code` is the gRPC status name, `reason` the stable name in the wire contract's `ErrorReason`,
    `exit_status` what the command line ends with.
    """

    code: ClassVar[str] = "UNKNOWN"
    reason: ClassVar[str] = ""
    exit_status: ClassVar[int] = 3

    def __init__(self, message: str, /, **details: str) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (self.message, self.details) == (other.message, other.details)

    def __hash__(self) -> int:
        return hash((type(self), self.message))


class InvalidRequest(BackbenchError):
    """The request itself is wrong: change it."""

    code = "INVALID_ARGUMENT"
    exit_status = 2


class NotFound(BackbenchError):
    """What was named does not exist: create it, or name it right."""

    code = "NOT_FOUND"
    exit_status = 2


class NotReady(BackbenchError):
    """The device or the controller lacks something: install or fix it."""

    code = "FAILED_PRECONDITION"


class Busy(BackbenchError):
    """Somebody else is at it: wait, then try the whole step again."""

    code = "ABORTED"


class Exhausted(BackbenchError):
    """A limit is reached: free something or ask for less."""

    code = "RESOURCE_EXHAUSTED"


class Corrupt(BackbenchError):
    """Bytes arrived or lie damaged: send them again."""

    code = "DATA_LOSS"


class Unreachable(BackbenchError):
    """The other side does not answer: try again later."""

    code = "UNAVAILABLE"


class NotAllowed(BackbenchError):
    """The caller may not do this: fix the credentials."""

    code = "PERMISSION_DENIED"


class TimedOut(BackbenchError):
    """No answer within the deadline."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(BackbenchError):
    """The caller took the request back."""

    code = "CANCELLED"
    exit_status = 130


class InvalidArgument(InvalidRequest):
    """A field of a request or a flag has a value that is out of range or does not parse."""

    reason = "INVALID_ARGUMENT"


class InvalidRunSpec(InvalidRequest):
    """A run specification contradicts itself or asks for something that no agent can do."""

    reason = "INVALID_RUN_SPEC"


class InvalidBudget(InvalidRequest):
    """A budget's text does not parse, or names an unknown metric or unit."""

    reason = "INVALID_BUDGET"


class InvalidModel(InvalidRequest):
    """A file is not an ONNX model, is truncated, or has no usable image input."""

    reason = "INVALID_MODEL"


class InvalidImage(InvalidRequest):
    """An input image cannot be decoded."""

    reason = "INVALID_IMAGE"


class ShapeMismatch(InvalidRequest):
    """The model does not take the requested size or batch."""

    reason = "SHAPE_MISMATCH"


class UnknownBackbone(InvalidRequest):
    """No recipe has this name; the text offers the closest ones."""

    reason = "UNKNOWN_BACKBONE"


class UnknownBackend(InvalidRequest):
    """No backend has this name; the text lists those that exist."""

    reason = "UNKNOWN_BACKEND"


class ArtifactNotFound(NotFound):
    """The agent holds no artifact with this digest."""

    reason = "ARTIFACT_NOT_FOUND"


class RunNotFound(NotFound):
    """No run has this id."""

    reason = "RUN_NOT_FOUND"


class DeviceNotFound(NotFound):
    """No device has this name."""

    reason = "DEVICE_NOT_FOUND"


class LeaseNotFound(NotFound):
    """The lease does not exist or has expired."""

    reason = "LEASE_NOT_FOUND"


class BackendUnavailable(NotReady):
    """The backend exists but this device cannot open it; the text says what brings it."""

    reason = "BACKEND_UNAVAILABLE"


class VersionMismatch(NotReady):
    """Agent and controller are too far apart in version."""

    reason = "VERSION_MISMATCH"


class RunNotFinished(NotReady):
    """The run is still going on."""

    reason = "RUN_NOT_FINISHED"


class StoreUnusable(NotReady):
    """A data folder or a store cannot be created, read or written."""

    reason = "STORE_UNUSABLE"


class AddressUnusable(NotReady):
    """The agent cannot listen where it was told to."""

    reason = "ADDRESS_UNUSABLE"


class PairingUnavailable(NotReady):
    """The agent can make no pairing code now; the text says why."""

    reason = "PAIRING_UNAVAILABLE"


class DeviceBusy(Busy):
    """The device is measuring for somebody else."""

    reason = "DEVICE_BUSY"


class StaleEpoch(Busy):
    """A newer lease was granted since; this caller's epoch is too old."""

    reason = "STALE_EPOCH"


class QueueFull(Exhausted):
    """The agent's run queue is full."""

    reason = "QUEUE_FULL"


class DiskFull(Exhausted):
    """There is too little room on the disk."""

    reason = "DISK_FULL"


class MessageTooLarge(Exhausted):
    """A message or a list in it is larger than the limit."""

    reason = "MESSAGE_TOO_LARGE"


class ResultsNotCollected(Exhausted):
    """Results that no controller has collected fill the device's quota."""

    reason = "RESULTS_NOT_COLLECTED"


class TooManyCalls(Exhausted):
    """One caller has too many calls in progress, or makes them too fast."""

    reason = "TOO_MANY_CALLS"


class DigestMismatch(Corrupt):
    """The bytes received do not have the digest that was announced."""

    reason = "DIGEST_MISMATCH"


class UploadOutOfStep(Corrupt):
    """An upload's chunk does not start at the committed offset."""

    reason = "UPLOAD_OUT_OF_STEP"


class JournalCorrupt(Corrupt):
    """A journal segment is damaged; everything before the damage is intact."""

    reason = "JOURNAL_CORRUPT"


class AgentUnreachable(Unreachable):
    """No agent answers at the address."""

    reason = "AGENT_UNREACHABLE"


class AgentStopping(Unreachable):
    """The agent is shutting down."""

    reason = "AGENT_STOPPING"


class Unauthenticated(NotAllowed):
    """The caller has no valid certificate."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class PermissionDenied(NotAllowed):
    """The caller's role does not allow this call."""

    reason = "PERMISSION_DENIED"


class UntrustedAgent(NotAllowed):
    """What answers at the address cannot show that it is the agent that was asked for."""

    code = "UNAUTHENTICATED"
    reason = "UNTRUSTED_AGENT"


class DeadlineExceeded(TimedOut):
    """A call did not come back within its deadline."""

    reason = "DEADLINE_EXCEEDED"


class CallCancelled(Cancelled):
    """A call was cancelled."""

    reason = "CALL_CANCELLED"


def _leaves(cls: type[BackbenchError]) -> list[type[BackbenchError]]:
    below = cls.__subclasses__()
    return [cls] if not below else [leaf for sub in below for leaf in _leaves(sub)]


ERRORS: dict[str, type[BackbenchError]] = {leaf.reason: leaf for leaf in _leaves(BackbenchError)}
"""Every concrete error class by its reason."""
