"""``launch/extract.py``: each image once in the store or in the report, whatever happens."""

import json
from pathlib import Path

import numpy as np
import pytest

from lxmert_dist.cli import extract
from lxmert_dist.detect import detect, load_detector
from lxmert_dist.ingest import extraction, feature_store, stage
from lxmert_dist.store import open_store, verify
from lxmert_dist.store import uri as uris
from photographs import sound, unsound, write_photographs, write_tar
from tiny_rcnn import save_tiny_detector


@pytest.fixture(autouse=True)
def _few_images_a_task(monkeypatch):
    monkeypatch.setattr(extraction, "TASK_IMAGES", 4)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), 10)


@pytest.fixture
def command(detector, photographs, tmp_path, capsys):
    """Runs the command in this process; returns its exit code and what it said."""

    def command(*more, images=photographs, detector=detector, out=tmp_path / "store"):
        places = ["--images", images, "--detector", detector, "--out", out]
        code = extract.main([*map(str, [*places, "--workers", "1", *more])])
        said = capsys.readouterr()
        return code, said.out + said.err

    return command


def split_of(out):
    store = open_store(str(out))
    assert list(verify(store)) == []
    return store.split("images")


def refusals(out):
    text = uris.read_bytes(f"{out}.refused.jsonl").decode()
    return {line["image_id"]: line for line in map(json.loads, text.splitlines())}


def test_every_image_is_in_the_store_or_in_the_report(command, detector, tmp_path):
    folder = write_photographs(tmp_path / "photos", 3, unusual=True)
    code, said = command("--dtype", "float32", images=folder)
    assert code == 0, said
    assert "detecting: 100%" in said
    assert "img/s" in said
    assert "refused=5" in said
    assert "1 other files are left alone" in said
    assert "5 images were refused, see" in said
    split = split_of(tmp_path / "store")
    good = {f"odd/{Path(name).stem}": folder / "odd" / name for name in sound()}
    good |= {f"set{i}/part/00{i}": folder / f"set{i}/part/00{i}.jpg" for i in range(3)}
    assert set(split.image_ids) == set(good)
    features = split.read_shard(0)
    opened = load_detector(detector)
    for row, name in enumerate(split.image_ids):
        record = detect(good[name], opened, name)
        np.testing.assert_allclose(features[row], record.roi_features, rtol=0, atol=1e-4)
        np.testing.assert_allclose(split.boxes[row], record.boxes, rtol=0, atol=1e-6)
        assert split.object_ids[row].tolist() == record.object_ids.tolist()
        assert split.sizes[row].tolist() == [record.height, record.width]
    assert split.sizes[split.image_ids.index("odd/exif")].tolist() == [64, 48]
    found = refusals(tmp_path / "store")
    assert found.keys() == {f"odd/bad/{Path(name).stem}" for name in unsound()}
    for name, (_, reason) in unsound().items():
        refusal = found[f"odd/bad/{Path(name).stem}"]
        assert any(part in refusal["reason"] for part in reason.split("|")), refusal
        assert refusal["where"].endswith(name)
    assert not (tmp_path / "store.stage").exists()


def test_lists_and_tar_files_give_the_same_records(command, photographs, tmp_path):
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "0.tar", photographs)
    files = sorted(photographs.rglob("*.jpg"))
    lines = [f"{file}\t{file.relative_to(photographs).with_suffix('')}" for file in files]
    lines.append(f"{photographs}/gone.jpg\tgone")
    (tmp_path / "list.txt").write_text("\n".join(lines))
    stores = {}
    for place in (photographs, tmp_path / "shards", tmp_path / "list.txt"):
        out = tmp_path / "stores" / place.name
        code, said = command(images=place, out=out)
        assert code == 0, said
        split = split_of(out)
        rows = {name: split.read_shard(0)[i].copy() for i, name in enumerate(split.image_ids)}
        stores[place.name] = dict(sorted(rows.items()))
    first, *others = stores.values()
    assert len(first) == 10
    for other in others:
        assert list(other) == list(first)
        np.testing.assert_array_equal([*other.values()], [*first.values()])
    assert "nothing at" in refusals(tmp_path / "stores" / "list.txt")["gone"]["reason"]


def test_where_all_are_refused_it_fails_and_says_why(command, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"")
    code, said = command(images=folder)
    assert code == 1
    assert "all 1 images were refused, the first because: the file is empty" in said
    assert refusals(tmp_path / "store").keys() == {"a"}
    assert not (tmp_path / "store" / "manifest.json").exists()


def stop_before_packing(patched):
    def stop(*given):
        raise KeyboardInterrupt

    patched.setattr(feature_store, "_pack", stop)


def test_what_was_interrupted_goes_on_and_each_image_is_detected_once(
    command, tmp_path, monkeypatch
):
    assert command(out=tmp_path / "whole")[0] == 0
    seen, do = [], extraction.do_task

    def some(task):
        if len(seen) == 8:
            raise KeyboardInterrupt
        seen.extend(image.image_id for image in task.images)
        return do(task)

    monkeypatch.setattr(extraction, "do_task", some)
    assert command()[0] == 130
    monkeypatch.setattr(extraction, "do_task", lambda task: seen.append("again") or do(task))
    with monkeypatch.context() as patched:
        stop_before_packing(patched)
        code, said = command()
    assert code == 130
    assert "going on with an extraction: 2 finished tasks are kept" in said
    code, said = command()
    assert code == 0, said
    assert "10 were kept from an earlier start" in said
    assert seen[8:] == ["again"]
    assert len(set(seen[:8])) == 8
    digests = {open_store(str(tmp_path / name)).digest for name in ("whole", "store")}
    assert len(digests) == 1


def test_a_damaged_task_is_done_again(command, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop_before_packing(patched)
        assert command()[0] == 130
    file = tmp_path / "store.stage/tasks/0000001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    code, said = command()
    assert code == 0, said
    assert "2 finished tasks are kept; 1 damaged tasks are done again" in said
    assert split_of(tmp_path / "store").num_images == 10


def test_changed_settings_are_named_and_overwrite_begins_anew(
    command, tmp_path, monkeypatch, photographs
):
    with monkeypatch.context() as patched:
        stop_before_packing(patched)
        assert command()[0] == 130
    fewer = tmp_path / "list.txt"
    fewer.write_text(f"{photographs}/set0/part/000.jpg")
    other = save_tiny_detector(tmp_path / "other", seed=1)
    for line, places, what in (
        (["--set", "selection.boxes=5"], {}, "other detector, settings of the detector"),
        (["--seed", "3", "--dtype", "float32"], {}, "other dtype, seed"),
        ([], {"images": fewer}, "other images"),
        ([], {"detector": other}, "other detector;"),
    ):
        code, said = command(*line, **places)
        assert code == 1
        assert what in said
        assert "--overwrite to begin anew" in said
    assert command("--batch-size", "3")[0] == 0  # which changes no record
    code, said = command()
    assert code == 1
    assert "there is a finished store" in said
    assert command("--seed", "3", "--overwrite")[0] == 0
    assert split_of(tmp_path / "store").num_images == 10


def test_a_stage_that_a_finished_run_left_goes(command, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(stage.Stage, "delete", lambda self: None)
        assert command()[0] == 0
    assert (tmp_path / "store.stage").exists()
    assert "there is a finished store" in command()[1]
    assert not (tmp_path / "store.stage").exists()


def test_images_may_differ_in_their_number_of_boxes(command, tmp_path):
    adaptive = ["--set", "selection.rule=adaptive", "--set", "selection.score_threshold=0.5"]
    code, said = command(*adaptive)
    assert code == 0, said
    split = split_of(tmp_path / "store")
    assert split.num_objects == 6
    counts = set(split.num_boxes.tolist())
    assert len(counts) > 1
    assert counts <= set(range(2, 7))


def test_an_image_that_the_detector_refuses_costs_no_other(command, tmp_path):
    chosen = ("rule=regressed", "too_few=error", "image_nms_thresholds=[0.1]", "boxes=5")
    code, said = command(*(word for c in chosen for word in ("--set", f"selection.{c}")))
    assert code == 0, said
    found = refusals(tmp_path / "store")
    assert 0 < len(found) < 10
    assert split_of(tmp_path / "store").num_images == 10 - len(found)
    for refusal in found.values():
        assert "of the 5 regions that selection.rule=regressed must keep" in refusal["reason"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--detector", "/nowhere"], "/nowhere/detector.toml"),
        (["--images", "/nowhere"], "nothing at /nowhere"),
        (["--set", "selection.boxes=0"], "selection.boxes"),
        (["--set", "regions.object_classes=7"], "regions.object_classes"),
        (["--gpus-per-worker", "1"], "needs --ray"),
        (["--device", "cuda:99"], "GPUs here"),
        (["--device", "gpu"], "must be cpu, cuda"),
        (["--out", "{photos}"], "holds something that is not a store"),
    ],
)
def test_what_cannot_be_meant_is_said_before_any_work(command, photographs, line, said, tmp_path):
    code, told = command(*(word.format(photos=photographs) for word in line))
    assert code in (1, 2)
    assert said in told
    assert "Traceback" not in told
    assert not (tmp_path / "store.stage").exists()


@pytest.mark.s3
def test_all_of_it_on_object_storage(command, s3, photographs, detector, tmp_path):
    place = s3.uri("extraction")
    for folder, name in ((photographs, "photos"), (detector, "detector")):
        for file in folder.rglob("*.*"):
            uris.upload(file, f"{place}/{name}/{file.relative_to(folder)}")
    there = {"images": f"{place}/photos", "detector": f"{place}/detector", "out": f"{place}/store"}
    code, said = command(**there)
    assert code == 0, said
    assert command()[0] == 0
    digests = {open_store(uri).digest for uri in (f"{place}/store", str(tmp_path / "store"))}
    assert len(digests) == 1
    assert uris.is_empty(f"{place}/store.stage")
