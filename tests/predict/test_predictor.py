"""Answers: the right ones, one by one and in batches, from every place; and clear errors."""

import functools
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from tiny_predictor import ANSWERS, QUESTION, Colours, make_export

from lxmert_dist.detect import SalientDetector
from lxmert_dist.errors import CheckpointError, ConfigError, DataError
from lxmert_dist.ingest.build import tokenise
from lxmert_dist.ingest.source import RawSentence
from lxmert_dist.interop import Request, convert
from lxmert_dist.interop.source import of_run
from lxmert_dist.opening import open_image
from lxmert_dist.predict import Predictor, Question, load_answerer, predict_split
from lxmert_dist.schema import ModelInputs
from lxmert_dist.store import open_store
from lxmert_dist.tasks import AnsweringTask
from lxmert_dist.tasks.weights import open_export
from lxmert_dist.train.checkpoint import find_weights
from runs import pretrain
from tiny_store import ANSWERS as STORE_ANSWERS
from tiny_store import make_tiny_store

PIECES = [2, 5, 11, 17, 1, 3]
"""[CLS] ba de fi [UNK] [SEP]: the tiny vocabulary has no question mark."""


@functools.cache
def task_of(export: Path) -> AnsweringTask:
    weights = open_export(str(export))
    task = AnsweringTask(weights.description.model, weights.description.spec, len(ANSWERS)).eval()
    task.load_state_dict(weights.tensors)
    return task


def by_hand(
    export: Path, features: np.ndarray, boxes: np.ndarray, pieces: list[int]
) -> list[float]:
    """Sigmoids of the task's own logits for one pair."""
    task = task_of(export)
    tokens = torch.tensor([pieces])
    inputs = ModelInputs.pack(
        tokens,
        torch.ones_like(tokens, dtype=torch.bool),
        torch.from_numpy(features)[None],
        torch.from_numpy(boxes)[None],
    )
    with torch.no_grad():
        encoded = task.model(inputs)
        return torch.sigmoid(task.answer_head(encoded.pooled))[0].tolist()


def expected_of(export: Path, photo: Path) -> list[float]:
    (record,) = Colours().detect(["x"], [open_image(photo)])
    return by_hand(export, record.roi_features, record.boxes, PIECES)


def test_the_answer_is_that_of_the_task(export: Path, photos: list[Path]) -> None:
    predictor = Predictor.load(str(export), detector=Colours())
    for photo in photos:
        prediction = predictor(str(photo), QUESTION)
        expected = expected_of(export, photo)
        assert prediction.answer == ANSWERS[int(np.argmax(expected))]
        assert prediction.top[0] == (prediction.answer, prediction.score)
        assert {text for text, _ in prediction.top} == set(ANSWERS)
        for text, score in prediction.top:
            assert score == pytest.approx(expected[ANSWERS.index(text)], abs=1e-6)
    assert len(predictor(open_image(photos[0]), QUESTION, top=2).top) == 2


def test_batches_say_what_single_questions_say(predictor: Predictor, photos: list[Path]) -> None:
    questions = [
        Question(photos[place], text, f"{place} {text}")
        for text in ("ba", "ba de fi go lu", "te")
        for place in (0, 0, 1, 2)
    ]
    single = [predictor(q.image, q.text, uid=q.uid) for q in questions]
    for size in (1, 2, 5, 100):
        found = predictor.batch(questions, size=size)
        assert [p.uid for p in found] == [q.uid for q in questions]
        for one, other in zip(found, single, strict=True):
            assert one.answer == other.answer
            assert one.score == pytest.approx(other.score, abs=1e-6)
    assert len({round(p.score, 4) for p in single}) > 6, "questions and images matter"


def test_neighbours_share_the_work_on_an_image(predictor: Predictor, photos: list[Path]) -> None:
    detector = predictor.detector
    assert isinstance(detector, Colours)
    order = [0, 0, 0, 1, 1, 2]
    predictor.batch([Question(photos[place], QUESTION) for place in order], size=2)
    assert detector.seen == [str(photo) for photo in photos]
    pixels = [open_image(photo) for photo in photos]
    found = predictor.batch([Question(image, QUESTION) for image in pixels], size=2)
    assert [p.score for p in found] == pytest.approx(
        [predictor(photo, QUESTION).score for photo in photos], abs=1e-6
    )


def test_words_are_those_of_the_ingest(export: Path, predictor: Predictor) -> None:
    texts = ["ba de fi?", "BA, go-lu", "unknown words", "ba " * 20]
    raw = [RawSentence("x", "u", "s", text) for text in texts]
    stored = [list(s.token_ids)[:6] for s in tokenise(raw, export / "tokenizer")]
    assert predictor.answerer.max_tokens == 8
    assert [ids[1:-1] for ids in predictor.answerer.tokenise(texts)] == stored
    assert predictor.answerer.tokenise(texts)[0] == PIECES


@pytest.mark.slow
def test_a_run_answers_with_one_softmax(
    tiny_store: str, tmp_path: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tokenizer is the store's, its answers are exclusive; exported it says the same."""
    pretrain(tmp_path / "run", tiny_store, "train.max_steps=1")
    predictor = Predictor.load(tmp_path / "run", detector=Colours(16))
    assert "was trained on regions of 'random numbers'" in capsys.readouterr().err
    assert predictor.answerer.max_tokens == 20
    prediction = predictor(photos[0], QUESTION)
    assert sum(score for _, score in prediction.top) == pytest.approx(1, abs=1e-6)
    assert {text for text, _ in prediction.top} == set(STORE_ANSWERS)
    for to in ("lxmert_dist", "huggingface"):
        out = tmp_path / to
        convert(of_run(find_weights(str(tmp_path / "run"))), Request(to=to, out=out))
        again = Predictor.load(out, detector=Colours(16))(photos[0], QUESTION)
        assert again.answer == prediction.answer
        assert again.score == pytest.approx(prediction.score, abs=1e-5)


def test_an_export_on_object_storage(
    export: Path, predictor: Predictor, photos: list[Path]
) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{export}/", "/exports/tiny", recursive=True)
    elsewhere = Predictor.load("memory://exports/tiny", detector=Colours())
    assert elsewhere(photos[0], QUESTION) == predictor(photos[0], QUESTION)


def test_the_detector_of_the_weights_is_the_default(tmp_path: Path, photos: list[Path]) -> None:
    salient = SalientDetector(5)
    spec = {"feature_dim": salient.feature_dim, "num_objects": 5}
    known = make_export(tmp_path / "known", sizes=spec, detector=salient.name)
    predictor = Predictor.load(known)
    assert predictor.detector.name == salient.name
    assert predictor.detector.num_objects == 5
    named = Predictor.load(known, detector="salient")
    assert named(photos[0], QUESTION) == predictor(photos[0], QUESTION)


def test_a_split_from_its_features(tiny_store: str, tmp_path: Path) -> None:
    spec = {"feature_dim": 16}
    export = make_export(tmp_path / "export", sizes=spec)
    store, answerer = open_store(tiny_store), load_answerer(str(export))
    found = predict_split(answerer, store, "test", sources=("questions",), size=7)
    split = store.split("test")
    table = split.sentences
    pairs = np.flatnonzero(table.source_ids == table.sources.index("questions"))
    assert [p.uid for p in found] == table.uids(pairs)
    features = np.concatenate([split.read_shard(s) for s in range(split.num_shards)])
    for pair, prediction in zip(pairs, found, strict=True):
        row = int(table.image_rows[pair])
        tokens, _ = table.tokens([int(pair)], max_tokens=8, cls_id=2, sep_id=3, pad_id=0)
        boxes, wide = split.boxes[row].copy(), features[row].astype(np.float32)
        expected = by_hand(export, wide, boxes, tokens[0].tolist())
        assert prediction.score == pytest.approx(max(expected), abs=1e-6)
        assert prediction.answer == ANSWERS[int(np.argmax(expected))]


def test_a_split_with_varying_boxes(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    make_tiny_store(uri, images=40, objects=4, min_objects=1)
    export = make_export(tmp_path / "export", sizes={"feature_dim": 16})
    split = open_store(uri).split("train")
    found = predict_split(load_answerer(str(export)), open_store(uri), "train")
    counts = split.num_boxes
    assert counts is not None
    pair = int(np.flatnonzero(counts[split.sentences.image_rows] == 2)[0])
    row = int(split.sentences.image_rows[pair])
    tokens, _ = split.sentences.tokens([pair], max_tokens=8, cls_id=2, sep_id=3, pad_id=0)
    features = split.read_shard(row // split.images_per_shard)[row % split.images_per_shard]
    expected = by_hand(
        export, features[:2].astype(np.float32), split.boxes[row][:2].copy(), tokens[0].tolist()
    )
    assert found[pair].score == pytest.approx(max(expected), abs=1e-6)


def test_mistakes_of_questions(predictor: Predictor, photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.png: cannot be read"):
        predictor(tmp_path / "nowhere.png", QUESTION)
    with pytest.raises(DataError, match="question 2 of 2 is empty"):
        predictor.batch([Question(photos[0], "ba"), Question(photos[0], " ")])
    with pytest.raises(ConfigError, match="top=0 must be at least 1"):
        predictor(photos[0], QUESTION, top=0)
    with pytest.raises(ConfigError, match="size=0"):
        predictor.batch([], size=0)
    assert predictor.batch([]) == []


def test_mistakes_of_weights(export: Path, tmp_path: Path, tiny_store: str) -> None:
    with pytest.raises(CheckpointError, match="nothing at"):
        Predictor.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"gives 9 features a region.*were trained on 12"):
        Predictor.load(export, detector=Colours(9))
    with pytest.raises(ConfigError, match=r"which detector.*mean colours of quarters"):
        Predictor.load(export)
    with pytest.raises(ConfigError, match=r"there is no .*detector\.toml"):
        Predictor.load(export, detector=tmp_path)
    with pytest.raises(ConfigError, match="max_tokens=2 must be from 3 to 24"):
        load_answerer(str(export), max_tokens=2)
    with pytest.raises(ConfigError, match="device=abacus"):
        load_answerer(str(export), device="abacus")
    with pytest.raises(CheckpointError, match="feature_dim=12, but the store has 16"):
        predict_split(load_answerer(str(export)), open_store(tiny_store), "test")


def test_weights_that_cannot_answer(export: Path, tmp_path: Path) -> None:
    weights = open_export(str(export))
    backbone = {n: t for n, t in weights.tensors.items() if not n.startswith("answer_head.")}
    sizes = {k: v for k, v in weights.description.sizes.items() if k != "num_answers"}
    update = {"kind": "backbone", "sizes": sizes, "answers": ()}
    described = weights.description.model_copy(update=update)
    headless = replace(weights, tensors=backbone, description=described)
    convert(of_run(headless), Request(to="lxmert_dist", out=tmp_path / "headless"))
    with pytest.raises(CheckpointError, match=r"no answer head \(they are: backbone\)"):
        load_answerer(str(tmp_path / "headless"))
    unnamed = make_export(tmp_path / "unnamed", answers=())
    with pytest.raises(CheckpointError, match="have no names"):
        load_answerer(str(unnamed))
    (tmp_path / "names.json").write_text('["a", "b", "c", "d"]')
    assert load_answerer(str(unnamed), answers=tmp_path / "names.json").answers == tuple("abcd")
    double = make_export(tmp_path / "double", answers=("no", "red", "no", "yes"))
    with pytest.raises(CheckpointError, match="two rows of the answer head are 'no'"):
        load_answerer(str(double))
    mute = replace(weights, tokenizer={})
    convert(of_run(mute), Request(to="lxmert_dist", out=tmp_path / "mute"))
    with pytest.raises(DataError, match="no tokenizer is with the weights"):
        load_answerer(str(tmp_path / "mute"))
    assert load_answerer(str(tmp_path / "mute"), tokenizer=export / "tokenizer").max_tokens == 8
