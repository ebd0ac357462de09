"""Bytes at any URI: all or nothing, and errors that say what to check."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3fs import S3FileSystem

from lxmert_dist.errors import StoreError
from lxmert_dist.store import has_store, open_store
from lxmert_dist.store import uri as uris
from tiny_store import make_tiny_store


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3").uri(tmp_path.name)
    return str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"


def test_bytes_go_in_and_out(place, tmp_path):
    one = uris.join(place, "a", "one")
    assert not uris.exists(one)
    assert uris.list_dir(uris.join(place, "a")) == []
    with pytest.raises(uris.MissingError, match="one"):
        uris.read_bytes(one)
    uris.write_bytes(one, b"first")
    uris.write_bytes(one, b"second")
    uris.write_bytes(uris.join(place, "a", "b", "two"), b"2")
    assert uris.read_bytes(one) == b"second"
    assert uris.exists(one)
    assert uris.list_dir(uris.join(place, "a")) == ["b", "one"]
    local = tmp_path / "local"
    uris.download(one, local)
    assert local.read_bytes() == b"second"
    uris.upload(local, uris.join(place, "three"))
    assert uris.read_bytes(uris.join(place, "three")) == b"second"
    uris.delete_tree(uris.join(place, "a"))
    uris.delete_tree(uris.join(place, "a"))
    assert not uris.exists(one)
    assert uris.exists(uris.join(place, "three"))


def test_a_part_of_an_object_and_its_length(place):
    one = uris.join(place, "a", "one")
    uris.write_bytes(one, b"0123456789")
    assert uris.size(one) == 10
    assert uris.read_range(one, 3, 7) == b"3456"
    assert uris.read_range(one, 8, 20) == b"89"
    assert uris.read_range(one, 5, 5) == b""
    for ask in (uris.size, lambda uri: uris.read_range(uri, 0, 2)):
        with pytest.raises(uris.MissingError, match="nothing at"):
            ask(uris.join(place, "a", "two"))
    with pytest.raises(uris.MissingError):
        uris.size(uris.join(place, "a"))


@pytest.mark.s3
def test_roots_are_not_deleted(s3):
    for root in (f"s3://{s3.bucket}", "/", f"s3://{s3.bucket}/"):
        with pytest.raises(StoreError, match="will not delete all"):
            uris.delete_tree(root)


def test_a_full_disk_is_named_and_the_old_object_stays(tmp_path, monkeypatch):
    target = str(tmp_path / "object")
    uris.write_bytes(target, b"old")

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"no space left to write .*object"):
        uris.write_bytes(target, b"new")
    monkeypatch.undo()
    assert uris.read_bytes(target) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["object"]


@pytest.mark.s3
def test_wrong_credentials_buckets_and_endpoints_are_told_apart(s3, monkeypatch):
    with pytest.raises(StoreError, match="no such bucket"):
        uris.read_bytes("s3://no-such-bucket/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(uris.DeniedError, match="AWS_SECRET_ACCESS_KEY") as caught:
        uris.read_bytes(s3.uri("x"))
    assert "not-the-secret" not in str(caught.value)
    assert s3.access_key not in str(caught.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    S3FileSystem.clear_instance_cache()
    with pytest.raises(uris.DeniedError):
        uris.read_bytes(s3.uri("x"))


@pytest.mark.s3
def test_an_endpoint_that_is_down_is_reported(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    unreachable = pytest.raises(uris.UnreachableError, match=r"cannot reach .*AWS_ENDPOINT_URL")
    with unreachable, uris.patience(1.0):
        uris.read_bytes(s3.uri("x"))


def test_an_unknown_protocol_is_named():
    with pytest.raises(StoreError, match="ftpx"):
        uris.read_bytes("ftpx://host/x")


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_upload_to_a_full_disk_leaves_the_old_object(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"new")
    target = tmp_path / "there" / "object"
    uris.write_bytes(str(target), b"old")
    monkeypatch.setattr(shutil, "copyfile", no_space)
    with pytest.raises(StoreError, match=f"no space left to write {target}; free some"):
        uris.upload(source, str(target))
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["object"]


def test_a_download_to_a_full_disk_names_the_disk(tmp_path, monkeypatch):
    uri = f"memory://{tmp_path.name}/object"
    uris.write_bytes(uri, b"1")
    monkeypatch.setattr(MemoryFileSystem, "get_file", no_space)
    with pytest.raises(StoreError, match=f"no space left to write {tmp_path}/copy; free some"):
        uris.download(uri, tmp_path / "copy")


def test_a_file_is_synced_before_it_takes_its_place(tmp_path, monkeypatch):
    target = tmp_path / "object"
    uris.write_bytes(str(target), b"old")
    steps: list[tuple[str, bytes]] = []
    replace = Path.replace
    sync = uris._sync

    def noted_sync(path: Path) -> None:
        steps.append((f"sync {'directory' if path.is_dir() else 'file'}", target.read_bytes()))
        sync(path)

    def noted_replace(self: Path, other: Path) -> Path:
        steps.append(("replace", target.read_bytes()))
        return replace(self, other)

    monkeypatch.setattr(uris, "_sync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    uris.write_bytes(str(target), b"new")
    assert steps == [("sync file", b"old"), ("replace", b"old"), ("sync directory", b"new")]


def test_a_write_that_is_interrupted_changes_nothing(tmp_path, monkeypatch):
    target = tmp_path / "object"
    uris.write_bytes(str(target), b"old")

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(uris, "_sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        uris.write_bytes(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["object"]


def test_directories_and_files_in_the_way_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    under = str(tmp_path / "file" / "object")
    assert not uris.exists(under)
    assert uris.list_dir(under) == []
    with pytest.raises(StoreError, match=f"cannot use {under}: .*File exists"):
        uris.write_bytes(under, b"1")
    with pytest.raises(StoreError, match=f"cannot use {tmp_path}"):
        uris.read_bytes(str(tmp_path))


@pytest.mark.s3
def test_a_bucket_that_does_not_exist_is_never_taken_for_an_empty_place(s3, tmp_path):
    place = "s3://no-such-bucket/store"
    operations = (
        open_store,
        has_store,
        uris.list_dir,
        uris.is_empty,
        uris.delete_tree,
        lambda uri: uris.download(uri, tmp_path / "x"),
        lambda uri: make_tiny_store(uri, images=10),
    )
    for operation in operations:
        with pytest.raises(StoreError, match="no such bucket; check its name"):
            operation(place)


@pytest.mark.s3
def test_wrong_credentials_are_never_taken_for_an_empty_place(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    S3FileSystem.clear_instance_cache()
    operations = (
        open_store,
        has_store,
        uris.list_dir,
        uris.is_empty,
        uris.delete_tree,
        lambda uri: uris.write_bytes(uri, b"1"),
        lambda uri: uris.download(uri, tmp_path / "x"),
        lambda uri: make_tiny_store(uri, images=10),
    )
    for operation in operations:
        with pytest.raises(uris.DeniedError, match="check AWS_ACCESS_KEY_ID") as caught:
            operation(s3.uri("store"))
        assert "not-the-secret" not in str(caught.value)
        assert s3.access_key not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["s3://key:hunter2@bucket/x", "s3://key:hun/ter2@bucket/x", "memory://me:hunter2@host/x"]
)
def test_no_message_about_a_store_shows_a_secret(uri, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError) as caught, uris.patience(0.0):
        open_store(uri)
    assert "ter2" not in str(caught.value)
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("endpoint", "uri", "message"),
    [
        ("http://127.0.0.1:9", "s3://Bad Bucket/x", "not a name that S3 allows"),
        ("127.0.0.1:9", "s3://bucket/x", r"Invalid endpoint: 127\.0\.0\.1:9"),
    ],
)
def test_what_no_attempt_can_mend_is_not_repeated(endpoint, uri, message, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(uris.time, "sleep", lambda s: pytest.fail("it was repeated"))
    for operation in (uris.read_bytes, uris.exists, uris.list_dir, open_store):
        with pytest.raises(StoreError, match=message):
            operation(uri)
    S3FileSystem.clear_instance_cache()
