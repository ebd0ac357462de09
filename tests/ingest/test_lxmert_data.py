import json
import shutil
from collections import Counter

import numpy as np
import pytest
import zarr
from one_step import train_one_step

from lxmert_dist.errors import DataError, StoreError
from lxmert_dist.ingest import (
    AnswerTable,
    FeatureFormat,
    LxmertFiles,
    LxmertJson,
    load_tokenizer,
    lxmert,
    prepare_lxmert,
    selection,
    shard_tasks,
)
from lxmert_dist.objectives.answers import normalise_answer
from lxmert_dist.store import open_store, verify
from lxmert_files import (
    ANSWERS,
    HEIGHT,
    SIZES,
    WIDTH,
    damage_line,
    make_fields,
    make_item,
    write_json,
    write_tsv,
)
from tiny_store import make_tokenizer

TRAIN_IDS = [f"COCO_train2014_{i:012d}" for i in range(5)]
VAL_IDS = [f"COCO_val2014_{i:012d}" for i in range(6)]
VG_IDS = [str(i) for i in range(2_000, 2_004)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The seven files; of val2014's six rows the first four are minival's."""
    monkeypatch.setattr(selection, "MINIVAL_ROWS", 4)
    named = {"train2014_obj36": TRAIN_IDS, "val2014_obj36": VAL_IDS, "vg_gqa_obj36": VG_IDS}
    said = {
        "mscoco_train": TRAIN_IDS,
        "mscoco_nominival": VAL_IDS[4:],
        "vgnococo": VG_IDS,
        "mscoco_minival": VAL_IDS[:4],
    }
    return LxmertFiles(
        [
            write_tsv(tmp_path / f"{name}.tsv", [make_fields(i) for i in ids])
            for name, ids in named.items()
        ],
        [
            LxmertJson(write_json(tmp_path / f"{name}.json", [make_item(i) for i in ids]))
            for name, ids in said.items()
        ],
    )


@pytest.fixture
def prepare(files, tmp_path):
    """Build a store at ``tmp_path / "store"``; returns it and the report."""
    make_tokenizer(tmp_path / "tokenizer")

    def run(dtype="float16", seed=7, **changes):
        settings = {"progress": False, "answers": AnswerTable(ANSWERS, normalise_answer)} | changes
        report = prepare_lxmert(
            str(tmp_path / "store"),
            files,
            tokenizer=str(tmp_path / "tokenizer"),
            seed=seed,
            features=FeatureFormat(SIZES, dtype=dtype, images_per_shard=4),
            **settings,
        )
        return open_store(str(tmp_path / "store")), report

    return run


def tsv(files, stem):
    return next(path for path in files.tsvs if path.stem.startswith(stem))


def rewrite(files, stem, change):
    """Change the items of one JSON file."""
    path = next(file.path for file in files.sentences if file.name == stem)
    items = json.loads(path.read_text())
    write_json(path, change(items) or items)
    return path


def said_of(split, image_id):
    row = split.image_ids.index(image_id)
    pairs = range(split.image_offsets[row], split.image_offsets[row + 1])
    return pairs, split.sentences.uids(list(pairs))


def test_images_and_sentences_land_in_their_splits(prepare):
    store, report = prepare()
    train, valid = store.split("train"), store.split("valid")
    assert sorted(valid.image_ids) == VAL_IDS[:4]
    assert sorted(train.image_ids) == sorted([*TRAIN_IDS, *VAL_IDS[4:], *VG_IDS])
    assert (train.num_pairs, valid.num_pairs) == (44, 16)
    assert store.manifest.splits["train"].sources == {"mscoco": 22, "vqa": 22}
    assert report.dropped == {}
    assert list(verify(store)) == []
    assert report.digest == store.digest
    assert store.manifest.info["json"]["valid"] == ["mscoco_minival.json"]


def test_the_store_holds_what_the_files_say(prepare):
    store, _ = prepare(dtype="float32")
    split = store.split("train")
    features = np.concatenate([split.read_shard(i) for i in range(split.num_shards)])
    for row, image_id in enumerate(split.image_ids):
        fields = make_fields(image_id)
        np.testing.assert_array_equal(features[row], fields["features"])
        np.testing.assert_array_equal(split.object_ids[row], fields["objects_id"])
        np.testing.assert_array_equal(split.attribute_ids[row], fields["attrs_id"])
        np.testing.assert_allclose(split.object_scores[row], fields["objects_conf"], rtol=1e-3)
        pixels = split.boxes[row] * np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float64)
        np.testing.assert_allclose(pixels, fields["boxes"], rtol=1e-6)
        assert split.sizes[row].tolist() == [HEIGHT, WIDTH]
    array = zarr.open_group(str(store.uri), mode="r")["train/roi_features"]
    np.testing.assert_array_equal(array[:], features)


def test_sentences_keep_their_uids_words_and_answers(prepare):
    store, _ = prepare()
    split = store.split("train")
    tokenizer = load_tokenizer(str(store.tokenizer_dir()))
    pairs, uids = said_of(split, TRAIN_IDS[2])
    item = make_item(TRAIN_IDS[2])
    texts = [text for sentences in item["sentf"].values() for text in sentences]
    assert uids == [f"{TRAIN_IDS[2]}_{s}_00{i}" for s in ("mscoco", "vqa") for i in (0, 1)]
    tokens, lengths = split.sentences.tokens(
        list(pairs), max_tokens=20, cls_id=2, sep_id=3, pad_id=0
    )
    for text, row, length in zip(texts, tokens, lengths, strict=True):
        pieces = tokenizer.convert_ids_to_tokens(row[1 : length - 1].tolist())
        assert pieces == text.replace("?", " [UNK]").split()
    offsets, answer_ids, scores = split.sentences.answers(list(pairs))
    assert offsets.tolist() == [0, 0, 0, 1, 1]
    assert [store.answers[i] for i in answer_ids] == ["yes"]
    assert scores.tolist() == [1.0]


def test_the_order_of_images_is_drawn_from_the_seed(prepare):
    store, first = prepare()
    order = store.split("train").image_ids
    assert order != sorted(order)
    again, second = prepare(overwrite=True)
    assert second.digest == first.digest
    assert again.split("train").image_ids == order
    other, _ = prepare(overwrite=True, seed=8)
    assert other.split("train").image_ids != order


def test_an_image_is_stored_once_from_its_first_row(prepare, files):
    again = [make_fields(i, seed=9) for i in (VG_IDS[1], TRAIN_IDS[0], TRAIN_IDS[0])]
    write_tsv(tsv(files, "vg"), [*(make_fields(i) for i in VG_IDS), *again])
    store, report = prepare(dtype="float32")
    split = store.split("train")
    assert report.dropped == {selection.TWICE: 3}
    assert Counter(split.image_ids).most_common(1)[0][1] == 1
    row = split.image_ids.index(TRAIN_IDS[0])
    found = split.read_shard(row // 4)[row % 4]
    np.testing.assert_array_equal(found, make_fields(TRAIN_IDS[0])["features"])


def test_what_is_left_out_is_counted(prepare, files):
    def change(items):
        del items[0]  # an image without a sentence
        items.append(make_item("COCO_train2014_lost"))
        items.append(make_item(VAL_IDS[0]))  # in valid
        items[0]["sentf"]["mscoco"].append(" ")
        items[0]["sentf"]["mscoco"].append("\u200b")

    rewrite(files, "mscoco_train", change)
    rewrite(files, "mscoco_minival", lambda items: items.append(make_item(VAL_IDS[5])))
    store, report = prepare()
    assert report.dropped == {
        lxmert.UNUSED: 2,
        selection.NO_FEATURES: 4,
        # the item of train, and all of an image that both nominival and minival name
        selection.HELD_OUT: 8,
        selection.NO_MINIVAL: 4,
        lxmert.NO_PIECES: 2,
    }
    assert VAL_IDS[5] not in [*store.split("train").image_ids, *store.split("valid").image_ids]
    assert TRAIN_IDS[0] not in store.split("train").image_ids


def test_an_image_may_come_in_several_items(prepare, files):
    rewrite(files, "vgnococo", lambda items: items.append(make_item(VG_IDS[0])))
    store, _ = prepare()
    _, uids = said_of(store.split("train"), VG_IDS[0])
    assert sorted(uids) == [f"2000_{s}_00{i}" for s in ("mscoco", "vqa") for i in range(4)]


def test_answers_are_normalised_merged_and_counted(prepare, files):
    labels = [{"Yes": 0.3, "the yes.": 0.9, "One": 1, "teal": 0.6}, {"beige": 1}]
    rewrite(files, "vgnococo", lambda items: items[0]["labelf"].update(vqa=labels))
    table = AnswerTable(ANSWERS, normalise_answer)
    store, report = prepare(answers=table)
    split = store.split("train")
    pairs, _ = said_of(split, VG_IDS[0])
    offsets, ids, scores = split.sentences.answers(list(pairs))
    assert offsets.tolist() == [0, 0, 0, 2, 2]
    # of two that become one, the later score counts, as in the released code
    assert dict(zip(ids.tolist(), scores.tolist(), strict=True)) == pytest.approx({3: 0.9, 0: 1.0})
    # 14 other images: "A Yes." stays, "maybe so" and "perhaps" do not
    assert report.answers.answers == 14 * 3 + 5
    assert report.answers.outside == 14 * 2 + 2
    assert report.answers.merged == 1
    assert (report.answers.questions, report.answers.unanswered) == (30, 15)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_round_off_is_the_largest(prepare, dtype):
    _, report = prepare(dtype)
    every = np.stack([make_fields(i)["features"] for i in [*TRAIN_IDS, *VAL_IDS, *VG_IDS]])
    expected = np.abs(every.astype(np.float64) - every.astype(dtype)).max()
    assert report.features.round_off == pytest.approx(expected, abs=1e-12)
    assert report.features.largest == np.abs(every).max()
    assert ("all exact" in "\n".join(report.lines())) == (dtype == "float32")


def test_the_report_says_it_all(prepare, files):
    rewrite(files, "mscoco_train", lambda items: items[1]["sentf"].update(vg=["ba", "be", "bi"]))
    rewrite(files, "vgnococo", lambda items: items.append(make_item("lost")))
    _, report = prepare()
    text = "\n".join(report.lines())
    assert "train: 11 images, 47 pairs: 22 mscoco, 3 vg, 22 vqa" in text
    assert "valid: 4 images, 16 pairs: 8 mscoco, 8 vqa" in text
    rows = {line[:14].strip(): line.split()[-8:] for line in text.splitlines() if " here " in line}
    assert rows["COCO - VG"] == ["10", "20", "-", "20", "-", "-", "-", "40"]
    assert rows["COCO and VG"] == ["1", "2", "3", "2", "-", "-", "-", "7"]
    assert rows["VG - COCO"] == ["4", "8", "-", "8", "-", "-", "-", "16"]
    assert rows["total"] == ["15", "30", "3", "30", "-", "-", "-", "63"]
    paper = [line.split()[-8:] for line in text.splitlines() if " paper " in line]
    assert paper[-1] == ["180K", "617K", "5.39M", "658K", "1.07M", "1.44M", "-", "9.18M"]
    assert f"4 {selection.NO_FEATURES}" in text
    assert "30 of 45 are outside the table" in text  # of images that are kept
    assert "15 of 30 questions keep none" in text
    assert "float16, each moved by at most" in text
    read = sum(path.stat().st_size for path in [*files.tsvs, *files.read_paths])
    assert report.bytes_read == read
    assert "MB/s" in text


def put_nan(fields):
    features = fields["features"].copy()
    features[1, 2] = np.nan
    return {**fields, "features": features}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put_nan, "roi_features holds NaN or infinity"),
        (
            lambda f: {**f, "features": f["features"] + 7e4},
            "roi_features up to 7.* do not fit float16",
        ),
        (lambda f: {**f, "boxes": f["boxes"] * 0 + WIDTH * (1 + 2e-5)}, "boxes in .* leaves"),
        (lambda f: {**f, "boxes": f["boxes"] * 0 - 1}, "boxes in .* leaves"),
        (lambda f: {**f, "objects_conf": f["objects_conf"] + 1}, "object_scores in .* leaves"),
        (lambda f: {**f, "objects_id": f["objects_id"] + 1600}, "object_ids in .* leaves"),
        (lambda f: {**f, "attrs_id": f["attrs_id"] - 400}, "attribute_ids in .* leaves"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_line(prepare, files, change, message):
    path = tsv(files, "vg")
    rows = [make_fields(i) for i in VG_IDS]
    rows[2] = change(rows[2])
    write_tsv(path, rows)
    with pytest.raises(DataError, match=f"{path.name}:3: image '2002': {message}"):
        prepare()


def test_a_box_may_leave_the_image_by_rounding(prepare, files):
    boxes = np.tile(np.array([0, 0, WIDTH, HEIGHT], np.float32) * np.float32(1 + 5e-6), (3, 1))
    write_tsv(tsv(files, "vg"), [make_fields(i, boxes=boxes) for i in VG_IDS])
    prepare()


def test_damage_of_one_letter_is_named(prepare, files):
    path = tsv(files, "vg")
    feature = path.read_bytes().splitlines()[1][-20:]
    damage_line(path, 2, feature, b"*" + feature[1:])
    with pytest.raises(DataError, match=f"{path.name}:2: features is not base64"):
        prepare()


def drop_label(items):
    items[1]["labelf"]["vqa"].pop()


def score_two(items):
    items[1]["labelf"]["vqa"][0]["yes"] = 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_label, "image 2001 has 2 sentences of vqa, but 1 labels"),
        (lambda items: items[1]["labelf"].update(gqa=[{"yes": 1}]), "0 sentences of gqa, but 1"),
        (score_two, "a label of vqa of image 2001: score 2 of answer 'yes'"),
        (lambda items: items[1].update(img_id=7), "img_id is 7"),
        (lambda items: items[1].pop("sentf") and None, "sentf of image 2001 is no"),
        (lambda items: items[1]["sentf"].update(vqa="one?"), "sentf of image 2001 is no"),
        (
            lambda items: items[1].update(labelf={"vqa": ["yes", "no"]}),
            "labelf of image 2001 is no",
        ),
    ],
)
def test_items_that_cannot_be_right_are_named(prepare, files, tmp_path, change, message):
    rewrite(files, "vgnococo", change)
    with pytest.raises(DataError, match=rf"vgnococo.json:1: .*{message}"):
        prepare()
    assert not (tmp_path / "store").exists()  # found before anything was written


def test_files_that_do_not_belong_together_are_named(prepare, files):
    files.tsvs.remove(tsv(files, "val2014"))
    with pytest.raises(DataError, match="none of the 4 images of split 'valid' has features"):
        prepare()


def test_a_file_given_twice_is_named(prepare, files):
    files.tsvs.append(files.tsvs[0])
    with pytest.raises(DataError, match=r"train2014_obj36\.tsv is given twice"):
        prepare()


def test_a_name_that_no_file_has_is_refused(prepare, files):
    object.__setattr__(files, "valid", ("minivall",))
    with pytest.raises(DataError, match=r"no file of sentences is called minivall"):
        prepare()


def test_without_a_file_for_valid_there_is_only_train(prepare, files):
    del files.sentences[-1]
    store, _ = prepare()
    assert list(store.manifest.splits) == ["train"]


def test_a_finished_store_is_kept_and_a_half_written_one_replaced(prepare, files, tmp_path):
    prepare()
    with pytest.raises(StoreError, match="finished store"):
        prepare()
    (tmp_path / "store" / "manifest.json").unlink()
    prepare()


def test_a_build_that_a_damaged_file_stopped_starts_anew_with_the_sound_one(
    prepare, files, tmp_path, capsys
):
    whole, report = prepare()
    shutil.rmtree(whole.uri)
    path = tsv(files, "val2014")
    sound = path.read_bytes()
    letter = path.read_bytes().splitlines()[5][-20:]
    damage_line(path, 6, letter, b"*" + letter[1:])
    with pytest.raises(DataError, match=":6: features is not base64"):
        prepare()
    assert list((tmp_path / "store" / "train" / "roi_features").rglob("0"))  # in the middle
    path.write_bytes(sound)
    _, again = prepare(progress=True)
    assert again.digest == report.digest
    assert f"(other --tsv {path.name}): starting anew" in capsys.readouterr().err


def test_an_interrupted_build_goes_on_and_its_report_is_whole(prepare, files, monkeypatch):
    whole, report = prepare()
    text = "\n".join(report.lines())
    shutil.rmtree(whole.uri)
    do = shard_tasks.do

    def stop_at_two(task):
        if task.place.number == 2:
            raise KeyboardInterrupt
        return do(task)

    monkeypatch.setattr(shard_tasks, "do", stop_at_two)
    with pytest.raises(KeyboardInterrupt):
        prepare()
    monkeypatch.setattr(shard_tasks, "do", do)
    # what is said of the images is no part of a shard
    rewrite(files, "vgnococo", lambda items: items[0]["sentf"]["mscoco"].append("ba"))
    _, again = prepare()
    assert (again.kept_shards, again.num_shards) == (2, 4)
    assert again.features == report.features
    found = "\n".join(again.lines())
    assert "2 of 4 shards were kept from an earlier start" in found
    assert "were kept" not in text
    assert "45 pairs" in found


def test_processes_make_the_same_store(prepare):
    whole, report = prepare()
    shutil.rmtree(whole.uri)
    _, again = prepare(processes=2)
    assert again.digest == report.digest
    assert again.answers.answers == report.answers.answers


def test_bars_count_bytes(prepare, capsys):
    prepare(progress=True)
    shown = capsys.readouterr().err
    for what in ("finding rows", "checking sentences", "features of train", "sentences of valid"):
        assert what in shown
    assert "B/s" in shown


def test_a_step_trains_on_the_store(prepare):
    store, _ = prepare()
    train_one_step(store)
