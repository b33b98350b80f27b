"""The artifact store: resumable, verified before visible, named by digest and nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backbench.agent.artifacts import ArtifactStore, Upload, default_quota
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
    store = ArtifactStore(tmp_path, limit_bytes=1 << 62, quota_bytes=1 << 62)
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


def data_of(number: int) -> tuple[str, bytes]:
    """A thousand bytes of their own, and their digest."""
    data = bytes([number]) * 1000
    return hashlib.sha256(data).hexdigest(), data


def put(store: ArtifactStore, number: int, used_unix_s: int | None = None) -> str:
    """Push the bytes of a number; say when they were used last."""
    sha256, data = data_of(number)
    with store.begin(sha256, len(data), ArtifactKind.MODEL, str(number)) as upload:
        upload.write(0, data)
        upload.finish()
    if used_unix_s is not None:
        os.utime(store.path(sha256).with_suffix(".json"), (used_unix_s, used_unix_s))
    return sha256


def test_what_was_not_used_for_longest_goes_first_and_no_more_than_needed(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, 1 << 20, quota_bytes=3000)
    oldest, middle, newest = (put(store, number, used_unix_s=1000 + number) for number in range(3))
    put(store, 3)
    assert store.missing([oldest, middle, newest]) == (oldest,)
    assert store.used_bytes() == 3000
    assert {path.suffix for path in (tmp_path / "artifacts").iterdir() if oldest in path.name} == set()


def test_asking_for_an_artifact_or_using_it_keeps_it(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, 1 << 20, quota_bytes=3000)
    asked, used, other = (put(store, number, used_unix_s=1000 + number) for number in range(3))
    assert store.missing([asked]) == ()
    store.use([used])
    put(store, 3)
    assert [store.holds(sha256) for sha256 in (asked, used, other)] == [True, True, False]


def test_what_a_run_uses_and_what_is_being_uploaded_is_never_dropped(tmp_path: Path) -> None:
    in_use = data_of(0)[0]
    store = ArtifactStore(tmp_path, 1 << 20, quota_bytes=3000, in_use=lambda sha256: sha256 == in_use)
    put(store, 0, used_unix_s=1)
    put(store, 1, used_unix_s=2)
    going_on, data = data_of(2)
    with store.begin(going_on, 1000, ArtifactKind.MODEL, "") as upload:
        upload.write(0, data[:10])
        with store.begin(data_of(3)[0], 1000, ArtifactKind.MODEL, ""):  # for which 1 went
            assert [store.holds(data_of(number)[0]) for number in (0, 1)] == [True, False]
            with pytest.raises(DiskFull, match="a larger --artifact-quota"):
                store.begin(data_of(4)[0], 1000, ArtifactKind.MODEL, "")
        upload.write(10, data[10:])
        upload.finish()
    assert store.holds(in_use)
    assert store.holds(going_on)


def test_nothing_is_dropped_in_vain(tmp_path: Path) -> None:
    in_use = data_of(0)[0]
    store = ArtifactStore(tmp_path, 1 << 20, quota_bytes=3000, in_use=lambda sha256: sha256 == in_use)
    held = [put(store, number) for number in range(2)]
    with pytest.raises(DiskFull):
        store.begin(SHA256, 2500, ArtifactKind.MODEL, "")
    assert store.missing(held) == ()


def test_an_upload_that_was_abandoned_goes_before_every_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, 1 << 20, quota_bytes=3000)
    kept = put(store, 0, used_unix_s=1)
    abandoned, data = data_of(1)
    with store.begin(abandoned, 1000, ArtifactKind.MODEL, "") as upload:
        upload.write(0, data[:900])
    eight_days_ago = time.time() - 8 * 24 * 3600
    os.utime(store.upload_path(abandoned), (eight_days_ago, eight_days_ago))
    put(store, 2)
    put(store, 3)
    assert store.holds(kept)
    assert store.committed(abandoned) == (0, False)


def test_an_artifact_larger_than_the_whole_quota_is_refused_at_once(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, 1 << 20, quota_bytes=3000)
    held = put(store, 0)
    with pytest.raises(MessageTooLarge, match="takes 1 to 3000"):
        store.begin(SHA256, 3001, ArtifactKind.MODEL, "")
    assert store.holds(held)


def test_a_full_disk_in_the_middle_of_an_upload_leaves_nothing_visible(store: ArtifactStore) -> None:
    store.upload_path(SHA256).symlink_to("/dev/full")  # a real device on which there is never room
    with store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "") as upload, pytest.raises(DiskFull, match="is full"):
        upload.write(0, DATA[:5000])
    assert store.missing([SHA256]) == (SHA256,)
    store.upload_path(SHA256).unlink()
    push(store)
    assert store.path(SHA256).read_bytes() == DATA


def test_two_uploads_of_the_same_artifact_at_once_both_end_well(store: ArtifactStore, tmp_path: Path) -> None:
    with (
        store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "one") as one,
        store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "two") as two,
    ):
        assert one.write(0, DATA[:4000]) == 4000
        with pytest.raises(UploadOutOfStep) as caught:
            two.write(0, DATA[:4000])
        assert caught.value.details == {"committed": "4000"}
        assert two.write(4000, DATA[4000:8000]) == 8000
        assert one.write(8000, DATA[8000:]) == len(DATA)
        one.finish()
        assert two.write(8000, DATA[8000:]) == len(DATA)  # it is there already, and nothing is written
        two.finish()
    assert store.path(SHA256).read_bytes() == DATA
    assert list((tmp_path / "uploads").iterdir()) == []


def test_both_of_two_uploads_may_come_to_their_end_at_the_same_moment(store: ArtifactStore) -> None:
    uploads = [store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "") for _ in range(8)]
    uploads[0].write(0, DATA)
    with ThreadPoolExecutor(len(uploads)) as threads:
        for ended in [threads.submit(upload.finish) for upload in uploads]:
            ended.result()
    assert store.path(SHA256).read_bytes() == DATA


def test_an_upload_that_becomes_whole_between_two_looks_is_whole(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = store._uploads

    class Moving:
        def __truediv__(self, name: str) -> Path:
            (uploads / name).replace(store._artifacts / name)
            return uploads / name

    with store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "") as upload:
        upload.write(0, DATA)
    monkeypatch.setattr(store, "_uploads", Moving())
    assert store.committed(SHA256) == (len(DATA), True)


def test_bytes_beyond_the_announced_size_become_no_part_of_an_artifact(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "mine")
    other = store.begin(SHA256, len(DATA) + 1, ArtifactKind.MODEL, "of somebody who lies")
    mine.write(0, DATA)
    publish = store.publish

    def published(upload: Upload) -> None:
        other.write(len(DATA), b"!")  # after the digest was found right
        publish(upload)

    monkeypatch.setattr(store, "publish", published)
    mine.finish()
    assert store.path(SHA256).read_bytes() == DATA


def test_an_unfinished_upload_that_is_too_long_is_in_nobody_s_way(store: ArtifactStore) -> None:
    with store.begin(SHA256, 2 * len(DATA), ArtifactKind.MODEL, "too long") as upload:
        upload.write(0, DATA)
        upload.write(len(DATA), DATA)
    with store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "right") as upload:
        upload.finish()
    assert store.path(SHA256).read_bytes() == DATA


def test_a_name_without_end_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(InvalidArgument, match="1025 characters; give at most 1024"):
        store.begin(SHA256, 1, ArtifactKind.MODEL, "x" * 1025)


@pytest.mark.parametrize("described", [False, True])
def test_an_agent_killed_while_it_published_goes_on_with_the_upload(tmp_path: Path, described: bool) -> None:
    store = ArtifactStore(tmp_path, 1 << 20)
    with store.begin(SHA256, len(DATA), ArtifactKind.MODEL, "name") as upload:
        upload.write(0, DATA)
    if described:  # and the file itself not yet renamed
        (tmp_path / "artifacts" / f"{SHA256}.json").write_text("{")
    (tmp_path / "artifacts" / f".{SHA256}.json.0123abcd.part").touch()
    after = ArtifactStore(tmp_path, 1 << 20)
    assert list((tmp_path / "artifacts").iterdir()) == []
    assert after.committed(SHA256) == (len(DATA), False)
    with after.begin(SHA256, len(DATA), ArtifactKind.IMAGE, "name") as upload:
        upload.finish()
    assert [artifact.kind for artifact in after.list()] == [ArtifactKind.IMAGE]


def test_the_usual_quota_is_at_most_half_of_the_disk(tmp_path: Path) -> None:
    quota_bytes = default_quota(tmp_path / "not" / "there" / "yet")
    assert 0 < quota_bytes <= min(16 << 30, shutil.disk_usage(tmp_path).total // 2)


def test_only_the_agent_may_read_what_it_keeps(store: ArtifactStore, tmp_path: Path) -> None:
    before = os.umask(0o077)  # as an agent has it
    try:
        push(store)
    finally:
        os.umask(before)
    for path in (tmp_path / "artifacts").iterdir():
        assert path.stat().st_mode & 0o077 == 0
