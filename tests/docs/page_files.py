"""Small files by the names that pages give them: published data, weights, photographs."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import BertForPreTraining, LxmertForPreTraining

from lxmert_dist.ingest import RowSizes
from lxmert_dist.ingest.easy_vqa import package_data
from lxmert_files import ANSWERS, make_fields, make_item, write_json, write_tsv
from nlvr1_files import write_part
from photographs import write_photographs
from tiny_rcnn import save_tiny_detector
from tiny_store import WORDS, make_tokenizer
from tiny_weights import released, theirs

TOKENIZER = "bert-base-uncased"
QUESTION = "what shape is in the image?"
TRAIN = [f"COCO_train2014_{n:012}" for n in range(1, 41)]
NOMINIVAL, MINIVAL = ([f"COCO_val2014_{n:012}" for n in r] for r in (range(41, 53), range(53, 65)))
GENOME, TESTDEV = [str(n) for n in range(100, 140)], [f"n{n}" for n in range(8)]
PAIRS, DEV_PAIRS = [f"train-{n}-0" for n in range(16)], [f"dev-{n}-0" for n in range(6)]
_NARROW = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 128}
_LONG = {"max_position_embeddings": 512}


def write_published(folder: Path) -> Path:
    """Features, sentences and tables of answers as LXMERT published them, of some images."""
    sizes = RowSizes()
    rows = {
        "train2014": TRAIN,
        "val2014": NOMINIVAL + MINIVAL,
        "vg_gqa": GENOME,
        "gqa_testdev": TESTDEV,
        "train": [f"{pair}-img{side}" for pair in PAIRS for side in (0, 1)],
        "valid": [f"{pair}-img{side}" for pair in DEV_PAIRS for side in (0, 1)],
    }
    for name, ids in rows.items():
        write_tsv(folder / f"{name}_obj36.tsv", [make_fields(i, sizes) for i in ids])
    sentences = {
        "mscoco_train": map(make_item, TRAIN),
        "mscoco_nominival": map(make_item, NOMINIVAL),
        "mscoco_minival": map(make_item, MINIVAL),
        "vgnococo": map(_region_item, GENOME),
    }
    for name, items in sentences.items():
        write_json(folder / f"{name}.json", list(items))
    table = [{"ans": answer, "dsets": ["vqa", "gqa"]} for answer in ANSWERS]
    write_json(folder / "all_ans.json", table)
    write_json(folder / "trainval_label2ans.json", ["blue", *ANSWERS])
    make_tokenizer(folder / TOKENIZER)
    return folder


def _region_item(image_id: str) -> dict:
    item = make_item(image_id, questions=False)
    texts = item["sentf"].pop("mscoco")
    item["sentf"] = {"vg": texts, "gqa": [f"{texts[0]}?"]}
    return item | {"labelf": {"gqa": [{"yes": 1}]}}


def write_tasks(folder: Path) -> Path:
    """Questions of VQA, GQA and NLVR2 for fine-tuning, and the official files to score by."""
    vqa = {"train": TRAIN, "nominival": NOMINIVAL, "minival": MINIVAL}
    gqa = {"train": GENOME[:30], "valid": GENOME[30:], "testdev": TESTDEV}
    for task, files in (("vqa", vqa), ("gqa", gqa)):
        (folder / task).mkdir()
        write_json(folder / task / "trainval_label2ans.json", ANSWERS)
        for name, ids in files.items():
            write_json(folder / task / f"{name}.json", list(_questions(ids)))
    (folder / "nlvr2").mkdir()
    for name, pairs in (("train", PAIRS), ("valid", DEV_PAIRS)):
        write_json(folder / "nlvr2" / f"{name}.json", [_judged(n, p) for n, p in enumerate(pairs)])
    labels = [{"identifier": f"{p}-0", "label": str(n % 2 == 0)} for n, p in enumerate(DEV_PAIRS)]
    (folder / "nlvr2" / "dev.json").write_text("\n".join(map(json.dumps, labels)))
    _write_vqa(folder, "val2014", [*NOMINIVAL, *MINIVAL])
    balanced = {q["question_id"]: _gqa(q) for q in _questions(TESTDEV)}
    write_json(folder / "testdev_balanced_questions.json", balanced)
    return folder


def write_originals(folder: Path) -> Path:
    """Files of COCO and VQA as their authors publish them."""
    _write_vqa(folder, "train2014", TRAIN)
    for part, ids in (("train2014", TRAIN), ("val2014", NOMINIVAL)):
        images = [{"id": int(i[-12:]), "file_name": f"{i}.jpg"} for i in ids]
        captions = [{"image_id": i["id"], "id": i["id"], "caption": WORDS[0]} for i in images]
        whole = {"images": images, "annotations": captions}
        write_json(folder / f"captions_{part}.json", whole)
    return folder


def _questions(image_ids: Iterable[str]) -> Iterable[dict]:
    for image_id in image_ids:
        number = int(image_id.rpartition("_")[2].lstrip("n"))
        answer = ANSWERS[number % len(ANSWERS)]
        for k, text in enumerate(WORDS[:2]):
            uid = str(1000 * number + k)
            yield {"question_id": uid, "img_id": image_id, "sent": f"{text}?", "label": {answer: 1}}


def _judged(number: int, pair: str) -> dict:
    images = {f"img{side}": f"{pair}-img{side}" for side in (0, 1)}
    uid = {"identifier": f"{pair}-0", "uid": f"nlvr2_{number}"}
    return {**uid, **images, "sent": WORDS[number % 5], "label": int(number % 2 == 0)}


def _write_vqa(folder: Path, part: str, ids: Sequence[str]) -> None:
    questions, annotations = [], []
    for q in _questions(ids):
        uid = {"question_id": int(q["question_id"]), "image_id": int(q["img_id"][-12:])}
        (answer,) = q["label"]
        people = [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n in range(10)]
        kinds = {"question_type": "is", "answer_type": "other", "multiple_choice_answer": answer}
        questions.append({**uid, "question": q["sent"]})
        annotations.append({**uid, **kinds, "answers": people})
    write_json(folder / f"v2_OpenEnded_mscoco_{part}_questions.json", {
        "data_subtype": part, "questions": questions,
    })  # fmt: skip
    write_json(folder / f"v2_mscoco_{part}_annotations.json", {
        "data_subtype": part, "annotations": annotations,
    })  # fmt: skip


def _gqa(question: dict) -> dict:
    (answer,) = question["label"]
    types = {"structural": "query", "semantic": "obj", "detailed": "x"}
    return {
        "imageId": question["img_id"], "question": question["sent"], "answer": answer,
        "isBalanced": True, "types": types, "semantic": [], "entailed": [],
        "groups": {"global": "thing"},
    }  # fmt: skip


def write_own(folder: Path) -> Path:
    """Own sentences, with a file of features for each image."""
    parts = {"mine": 24, "held_out": 8, "train": 24, "valid": 8, "test": 8}
    (folder / "features").mkdir()
    for part, count in parts.items():
        _write_sentences(folder / f"{part}.jsonl", [f"{part}_{n}" for n in range(count)])
        for n in range(count):
            fields = make_fields(f"{part}_{n}", RowSizes())
            np.savez(
                folder / "features" / f"{part}_{n}.npz",
                roi_features=fields["features"],
                boxes=fields["boxes"],
                image_size=[fields["img_h"], fields["img_w"]],
            )
    return folder


def write_photos(folder: Path) -> Path:
    """Photographs in folders, a list of some of them, and sentences about all."""
    names = sorted(
        file.relative_to(folder / "photos").with_suffix("").as_posix()
        for file in write_photographs(folder / "photos", 24).rglob("*.jpg")
    )
    listed = [str(folder / "photos" / f"{name}.jpg") for name in names[:6]]
    (folder / "list.txt").write_text("\n".join(listed))
    _write_sentences(folder / "photos.jsonl", names[:18])
    _write_sentences(folder / "held_out_photos.jsonl", names[18:])
    return folder


def _write_sentences(path: Path, image_ids: Sequence[str]) -> None:
    lines = []
    for number, image_id in enumerate(image_ids):
        answer = ANSWERS[number % len(ANSWERS)]
        lines.append({"image_id": image_id, "sentence": f"{WORDS[number % 9]} {WORDS[3]}"})
        lines.append({"image_id": image_id, "sentence": f"{WORDS[1]}?", "answers": {answer: 1}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_detector(folder: Path) -> Path:
    """``frcnn``, with random weights."""
    save_tiny_detector(folder / "frcnn")
    return folder


def write_nlvr1(folder: Path) -> Path:
    """Both archives of NLVR v1."""
    for part in ("hidden", "dev"):
        write_part(folder / "nlvr1", part, range(20))
        shutil.make_archive(str(folder / "nlvr1" / part), "zip", folder / "nlvr1", part)
    return folder


def write_foreign_weights(folder: Path) -> Path:
    """A snapshot of the released code, and BERT, both narrow and with random values."""
    bert = theirs(BertForPreTraining, **_NARROW, **_LONG, num_hidden_layers=12)
    bert.save_pretrained(folder / TOKENIZER)
    heads = {"num_object_labels": 1600, "num_attr_labels": 400, "num_qa_labels": len(ANSWERS)}
    layers = {"l_layers": 9, "r_layers": 5, "x_layers": 5, "visual_feat_dim": 2048}
    lxmert = theirs(LxmertForPreTraining, **_NARROW, **_LONG, **heads, **layers)
    torch.save(released(lxmert), folder / "model_LXRT.pth")
    return folder


def write_photo(folder: Path) -> Path:
    """A drawing, and a file of a question about it."""
    shutil.copy(package_data() / "test" / "images" / "5.png", folder / "photo.png")
    line = {"uid": "a", "image": "photo.png", "question": QUESTION}
    (folder / "questions.jsonl").write_text(json.dumps(line) + "\n")
    return folder
