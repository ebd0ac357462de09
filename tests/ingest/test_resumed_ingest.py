"""A build that is interrupted goes on, and the store is the same as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from lxmert_dist.errors import DataError, StoreError
from lxmert_dist.ingest import SyntheticImages, prepare_synthetic, shard_tasks
from lxmert_dist.store import open_store, verify
from lxmert_dist.store import uri as uris
from runs import ROOT, environment
from s3_server import S3Server

SMALL = {
    "num_objects": 2,
    "feature_dim": 8,
    "num_object_classes": 20,
    "num_attribute_classes": 10,
    "num_answers": 50,
    "vocab_size": 300,
}
IMAGES = 330  # 321 of train: six shards; 9 of valid: one


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The digest of a build that was not interrupted."""
    return build(str(tmp_path_factory.mktemp("whole") / "store"))


def build(uri, *, seed=5, images=IMAGES, overwrite=False, progress=False, dtype="float16"):
    return prepare_synthetic(
        uri,
        SyntheticImages(seed, **SMALL),
        num_images=images,
        feature_dtype=dtype,
        overwrite=overwrite,
        progress=progress,
    )


class StopError(Exception):
    """The power went off."""


@pytest.fixture
def written(monkeypatch):
    """The shards that were written; ``written.stop_at`` of them, then the power goes off."""

    class Written(list):
        stop_at = None

    written = Written()
    do = shard_tasks.do

    def do_some(task):
        if written.stop_at is not None and len(written) >= written.stop_at:
            raise StopError
        done = do(task)
        written.append((task.place.split, task.place.number))
        return done

    monkeypatch.setattr(shard_tasks, "do", do_some)
    return written


def interrupt(uri, written, after=3, **settings):
    written.stop_at = after
    with pytest.raises(StopError):
        build(uri, **settings)
    written.stop_at = None
    written.clear()


def test_finished_shards_are_kept_and_the_store_is_the_same(tmp_path, written, whole, capsys):
    uri = str(tmp_path / "store")
    interrupt(uri, written)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "store/train/roi_features/c").rglob("0")}
    assert build(uri, progress=True) == whole
    assert written == [("train", 3), ("train", 4), ("train", 5), ("valid", 0)]
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in times.items())
    assert "going on with the half-written store: 3 finished shards" in capsys.readouterr().err
    assert list(verify(open_store(uri))) == []
    assert not (tmp_path / "store" / "parts").exists()


def test_a_store_that_was_to_be_overwritten_goes_on_too(tmp_path, written, whole):
    uri = str(tmp_path / "store")
    build(uri, seed=6)
    written.clear()
    interrupt(uri, written, overwrite=True)
    assert build(uri, overwrite=True) == whole
    assert len(written) == 4


@pytest.mark.parametrize(
    "changes", [{"seed": 6}, {"images": IMAGES + 1}, {"dtype": "float32"}], ids=str
)
def test_other_inputs_or_settings_start_anew_and_say_so(tmp_path, written, capsys, changes):
    uri = str(tmp_path / "store")
    interrupt(uri, written)
    build(uri, **changes, progress=True)
    assert len(written) == 7
    said = capsys.readouterr().err
    assert "cannot be continued (other " in said
    assert "starting anew" in said
    assert open_store(uri).manifest.info["seed"] == changes.get("seed", 5)


def test_what_a_killed_process_left_of_an_object_goes(tmp_path, written, whole):
    uri = str(tmp_path / "store")
    interrupt(uri, written)
    left = tmp_path / "store/train/roi_features/c/3/0/.0.abc.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    shard = tmp_path / "store/train/roi_features/c/1/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])  # a shard that is not as long as it should be
    assert build(uri) == whole
    assert ("train", 1) in written
    assert not left.exists()


def test_a_damaged_part_is_named_and_costs_one_shard(tmp_path, written, whole):
    uri = str(tmp_path / "store")
    interrupt(uri, written)
    part = tmp_path / "store/parts/train/2"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match=r"parts/train/2 is damaged .*delete it and run"):
        build(uri)
    part.unlink()
    written.clear()
    assert build(uri) == whole
    assert written == [("train", 2), ("valid", 0)]


def test_parts_that_were_not_removed_are_when_the_store_is_found_finished(tmp_path, monkeypatch):
    uri = str(tmp_path / "store")
    monkeypatch.setattr(uris, "delete_tree", lambda _: None)
    build(uri)
    monkeypatch.undo()
    assert (tmp_path / "store/parts/job.json").exists()
    with pytest.raises(StoreError, match="there is a finished store"):
        build(uri)
    assert not (tmp_path / "store/parts").exists()
    assert list(verify(open_store(uri))) == []


def test_something_that_is_no_store_is_never_touched(tmp_path):
    mine = tmp_path / "store" / "parts" / "job.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    with pytest.raises(StoreError, match="not a store"):
        build(str(tmp_path / "store"))
    assert mine.read_text() == "{}"


@pytest.mark.s3
def test_a_build_on_s3_goes_on(s3: S3Server, written, whole):
    uri = s3.uri("resumed")
    interrupt(uri, written)
    assert build(uri) == whole
    assert written == [("train", 3), ("train", 4), ("train", 5), ("valid", 0)]
    assert not [key for key in uris.list_tree(uri) if key.startswith("parts/")]


@pytest.mark.distributed
def test_a_build_that_was_killed_goes_on(tmp_path):
    """SIGKILL while two processes write; the same command, then compare with one process."""
    store = tmp_path / "store"
    line = [sys.executable, str(ROOT / "launch/prepare.py"), "synthetic", "--images", "1400"]
    line += ["--boxes", "12", "--feature-dim", "512", "--processes", "2", "--out", str(store)]
    log = tmp_path / "log"
    with log.open("w") as output:
        killed = subprocess.Popen(line, env=environment(), stderr=output, cwd=ROOT)
        while len(parts(store)) < 4:
            assert killed.poll() is None, log.read_text()
            time.sleep(0.002)
        family = psutil.Process(killed.pid).children(recursive=True)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    assert psutil.wait_procs(family, timeout=20)[1] == []
    kept = {path.name: feature_of(store, path).stat().st_mtime_ns for path in parts(store)}
    assert 4 <= len(kept) < 22
    assert not (store / "manifest.json").exists()
    again = subprocess.run(
        line, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} finished shards are kept" in again.stderr
    for name, mtime in kept.items():
        assert feature_of(store, Path(name)).stat().st_mtime_ns == mtime
    assert not list(store.rglob("*.tmp"))
    made = SyntheticImages(9595, num_objects=12, feature_dim=512)
    digest = prepare_synthetic(str(tmp_path / "other"), made, num_images=1400, progress=False)
    assert open_store(str(store)).digest == digest


def parts(store):
    return list((store / "parts" / "train").glob("[0-9]*"))


def feature_of(store, part):
    return store / "train" / "roi_features" / "c" / part.name / "0" / "0"


def test_an_image_that_comes_twice_is_found_at_the_end(tmp_path, monkeypatch):
    names = SyntheticImages.image_ids
    monkeypatch.setattr(
        SyntheticImages,
        "image_ids",
        lambda made, images: names(made, np.minimum(images, IMAGES - 2)),
    )
    with pytest.raises(DataError, match=r"image .* is twice in split 'train'"):
        build(str(tmp_path / "store"))
