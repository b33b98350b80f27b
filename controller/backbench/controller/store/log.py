"""A run's events while it is followed: appended once each, in order, by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from backbench.controller.store.locks import take
from backbench.domain.errors import JournalCorrupt, StoreUnusable
from backbench.domain.event import RunEvent, RunResult
from backbench.wire.event import event_from_bytes, event_to_bytes
from backbench.wire.records import RecordWriter, read_records, sync_folder


class EventLog:
    """A context manager over one run's log. Raises StoreUnusable when another process holds it."""

    def __init__(self, path: Path, lock: Path) -> None:
        self._path = path
        try:
            taken = take(lock)
        except OSError as error:
            raise unwritable(lock, error) from error
        if taken is None:
            raise StoreUnusable(
                f"run {path.parent.name} is being followed by another process; wait for it or end it",
                holder="another process",
            )
        self._lock = taken
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(mode=0o700, parents=True)
                sync_folder(path.parent.parent)
            self._writer = RecordWriter(path)
            self._ended = any(isinstance(event.event, RunResult) for event in self.events())
        except OSError as error:
            taken.release()
            raise unwritable(path, error) from error
        except BaseException:
            taken.release()
            raise

    @property
    def next_sequence(self) -> int:
        """Number of the first event that is not here yet."""
        return self._writer.last_sequence + 1

    @property
    def ended(self) -> bool:
        """Whether the run's result is here."""
        return self._ended

    def append(self, event: RunEvent) -> bool:
        """Keep an event; False for progress and for one that is here already.

        Raises JournalCorrupt for a gap, StoreUnusable when the disk takes no more; what is here stays whole then.
        """
        if event.sequence is None or event.sequence < self.next_sequence:
            return False
        if event.sequence > self.next_sequence:
            raise JournalCorrupt(
                f"event {event.sequence} came where {self.next_sequence} was due; follow the run again"
            )
        try:
            self._writer.append(event.sequence, event_to_bytes(event))
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._ended = self._ended or isinstance(event.event, RunResult)
        return True

    def sync(self) -> None:
        """Put everything onto the disk. Raises StoreUnusable."""
        try:
            self._writer.sync()
        except OSError as error:
            raise unwritable(self._path, error) from error

    def events(self) -> Iterator[RunEvent]:
        """Every event that is here, in order."""
        for _, payload, _ in read_records(self._path):
            yield event_from_bytes(payload)

    def close(self) -> None:
        """Sync, and let others in. Raises StoreUnusable."""
        try:
            self._writer.close()
        except OSError as error:
            raise unwritable(self._path, error) from error
        finally:
            self._lock.release()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def unwritable(path: Path, error: OSError) -> StoreUnusable:
    """What is said when a run's files cannot be written."""
    return StoreUnusable(
        f"{path} cannot be written: {error.strerror or error}; see to the disk, then try again: what is on the device"
        " stays there"
    )
