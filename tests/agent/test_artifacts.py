"""The artifact store: resumable, verified before visible, named by digest and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from backbench.agent.artifacts import ArtifactStore
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import (
    ArtifactNotFound,
    DigestMismatch,
    DiskFull,
    InvalidArgument,
    MessageTooLarge,
    UploadOutOfStep,
)

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path, limit_bytes=1 << 20)


def push(store: ArtifactStore, data: bytes = DATA, sha256: str = SHA256, start: int = 0) -> None:
    upload = store.begin(sha256, len(data), ArtifactKind.MODEL, "a model")
    for offset in range(start, len(data), 1000):
        upload.write(offset, data[offset : offset + 1000])
    upload.finish()


def test_an_artifact_is_there_once_it_is_whole(store: ArtifactStore) -> None:
    upload = store.begin(SHA256, len(DATA), ArtifactKind.IMAGE, "photo.jpg")
    upload.write(0, DATA[:5000])
    assert store.missing([SHA256]) == (SHA256,)
    with pytest.raises(ArtifactNotFound):
        store.path(SHA256)
    upload.write(5000, DATA[5000:])
    upload.finish()
    assert store.missing([SHA256]) == ()
    assert store.path(SHA256).read_bytes() == DATA
    (artifact,) = store.list()
    assert (artifact.kind, artifact.name, artifact.size_bytes) == (ArtifactKind.IMAGE, "photo.jpg", len(DATA))


@pytest.mark.parametrize("cut", [1, 999, 1000, 5001, len(DATA) - 1, len(DATA)])
def test_an_upload_goes_on_where_an_earlier_agent_had_stopped(tmp_path: Path, cut: int) -> None:
    ArtifactStore(tmp_path, 1 << 20).begin(SHA256, len(DATA), ArtifactKind.MODEL, "").write(0, DATA[:cut])
    after = ArtifactStore(tmp_path, 1 << 20)
    assert after.committed(SHA256) == (cut, False)
    push(after, start=cut)
    assert after.committed(SHA256) == (len(DATA), True)
    assert after.path(SHA256).read_bytes() == DATA


def test_damaged_bytes_are_discarded_and_can_be_pushed_again(store: ArtifactStore, tmp_path: Path) -> None:
    damaged = DATA[:-1] + b"\0"
    with pytest.raises(DigestMismatch, match="push it again"):
        push(store, damaged)
    assert store.committed(SHA256) == (0, False)
    assert list((tmp_path / "artifacts").iterdir()) == []
    push(store)
    assert store.missing([SHA256]) == ()


def test_a_chunk_out_of_step_is_refused_with_the_offset_to_go_on_from(store: ArtifactStore) -> None:
    upload = store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "")
    upload.write(0, DATA[:100])
    for offset in (0, 99, 101):
        with pytest.raises(UploadOutOfStep) as caught:
            upload.write(offset, DATA[offset : offset + 10])
        assert caught.value.details == {"committed": "100"}


def test_an_upload_that_ends_early_is_kept_but_not_visible(store: ArtifactStore) -> None:
    upload = store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "")
    upload.write(0, DATA[:100])
    with pytest.raises(UploadOutOfStep, match="100 of"):
        upload.finish()
    assert store.committed(SHA256) == (100, False)


def test_more_than_was_announced_is_refused(store: ArtifactStore) -> None:
    upload = store.begin(SHA256, 100, ArtifactKind.MODEL, "")
    with pytest.raises(InvalidArgument, match="beyond the announced size"):
        upload.write(0, DATA[:101])


@pytest.mark.parametrize("size", [0, -1, (1 << 20) + 1])
def test_sizes_out_of_range_are_refused(store: ArtifactStore, size: int) -> None:
    with pytest.raises(MessageTooLarge):
        store.begin(SHA256, size, ArtifactKind.MODEL, "")


def test_what_cannot_fit_on_the_disk_is_refused_before_a_byte_is_sent(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, limit_bytes=1 << 62)
    with pytest.raises(DiskFull, match="free"):
        store.begin(SHA256, 1 << 61, ArtifactKind.MODEL, "")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "", "ABC", SHA256.upper(), SHA256 + "/", SHA256[:-1], "/" + SHA256]
)
def test_only_digests_name_artifacts(store: ArtifactStore, name: str) -> None:
    for call in (store.path, store.committed, store.delete, lambda n: store.missing([n])):
        with pytest.raises(InvalidArgument, match="is not a SHA-256"):
            call(name)


def test_a_deleted_artifact_is_gone(store: ArtifactStore, tmp_path: Path) -> None:
    push(store)
    store.delete(SHA256)
    assert store.list() == ()
    assert list((tmp_path / "artifacts").iterdir()) == []
    with pytest.raises(ArtifactNotFound):
        store.delete(SHA256)
