"""The README's three lines, the commands of this room's, plain transformers, and a run."""

import os
import shlex
import shutil
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LxmertForQuestionAnswering

from lxmert_dist.config import FinetuneConfig, load_config
from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.detect import SalientDetector
from lxmert_dist.ingest.easy_vqa import package_data, prepare_easy_vqa
from lxmert_dist.interop import Request, convert
from lxmert_dist.interop.source import of_run
from lxmert_dist.opening import open_image
from lxmert_dist.predict import Predictor, load_answerer, predict_split
from lxmert_dist.scoring.predictions import read_predictions
from lxmert_dist.store import Store, open_store
from lxmert_dist.tasks import AnsweringTask
from lxmert_dist.tasks.weights import Description, TaskWeights, open_export
from lxmert_dist.tracking import read_metrics
from lxmert_dist.train.run import run as train
from lxmert_dist.train.world import World, join
from pages import Page
from runs import ROOT
from sizes import MODEL

QUESTION = "what shape is in the image?"


def write_weights(store: Store, out: Path, model: ModelConfig = MODEL) -> None:
    """An export of a task with random weights for a store."""
    torch.manual_seed(1)
    model = model.model_copy(update={"initializer_range": 0.3})
    task = AnsweringTask(model, store.spec, store.spec.num_answers)
    description = Description(
        kind="answering",
        model=model,
        sizes=asdict(store.spec),
        answers=tuple(store.answers),
        detector=store.manifest.extractor,
        max_tokens=20,
    )
    request = Request(to="lxmert_dist", out=out, tokenizer=store.tokenizer_dir())
    convert(of_run(TaskWeights("made up", description, task.state_dict())), request)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's directory: a store of a few images, weights, a photograph, and questions."""
    home = tmp_path_factory.mktemp("home")
    store = str(home / "data" / "easy_vqa")
    prepare_easy_vqa(store, seed=1, detector=SalientDetector(), limit=6, progress=False)
    write_weights(open_store(store), home / "runs" / "easy_vqa_finetune")
    shutil.copy(package_data() / "test" / "images" / "5.png", home / "photo.png")
    line = f'{{"uid": "a", "image": "photo.png", "question": "{QUESTION}"}}\n'
    (home / "questions.jsonl").write_text(line)
    return home


def block(page: str, kind: str) -> str:
    """The first of a page."""
    return next(block.text for block in Page(page).blocks if block.kind == kind)


def test_the_three_lines(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    code = block("README.md", "python")
    assert len([line for line in code.splitlines() if line]) == 3
    exec(code, {})
    said = capsys.readouterr().out.strip()
    assert said in open_store("data/easy_vqa").answers
    assert said == Predictor.load("runs/easy_vqa_finetune")("photo.png", QUESTION).answer


def test_the_commands(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    commands = block("lxmert_dist/predict/README.md", "bash")
    lines = commands.replace("\\\n", " ").strip().splitlines()
    assert len(lines) == 4
    predictions = []
    for line in lines:
        uv, run, script, *arguments = shlex.split(line)
        assert (uv, run) == ("uv", "run")
        module = import_module(f"lxmert_dist.cli.{Path(script).stem}")
        assert (ROOT / script).is_file()
        assert module.main(arguments) == 0, capsys.readouterr().err
        if os.path.exists("predictions.jsonl"):
            predictions.append(list(read_predictions(Path("predictions.jsonl"))))
    table = open_store("data/easy_vqa").split("test").sentences
    assert [len(found) for found in predictions] == [table.num_pairs, 1]
    assert predictions[1][0].uid == "a"
    assert len(list(Path("pictures").rglob("*.png"))) == 1 + 2 * 9 + 6
    # The same image and question in the store, whose features are rounded to 16 bits.
    stored = {one.uid: one for one in predictions[0]}
    split = open_store("data/easy_vqa").split("test")
    row = split.image_ids.index("test/5")
    pairs = [p for p in range(split.num_pairs) if split.sentences.image_rows[p] == row]
    asked = load_answerer("exports/easy_vqa").tokenise([QUESTION])[0]
    tokens, lengths = split.sentences.tokens(
        pairs, max_tokens=20, cls_id=asked[0], sep_id=asked[-1], pad_id=0
    )
    same = [
        uid
        for uid, ids, length in zip(split.sentences.uids(pairs), tokens, lengths, strict=True)
        if ids[:length].tolist() == asked
    ]
    for uid in same:
        assert stored[uid].score == pytest.approx(predictions[1][0].score, abs=2e-3)


def test_plain_transformers_says_the_same(home, tmp_path):
    export, out = home / "runs" / "easy_vqa_finetune", tmp_path / "theirs"
    convert(of_run(open_export(str(export))), Request(to="huggingface", out=out))
    card = (out / "README.md").read_text()
    assert f"Trained on regions of: {SalientDetector().name}." in card
    assert "Longest sentence: 20 tokens" in card
    assert "launch/predict.py --from this/directory" in (export / "README.md").read_text()
    model = LxmertForQuestionAnswering.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    predictor = Predictor.load(export)
    seen = set()
    for number in range(4):
        image = package_data() / "test" / "images" / f"{number}.png"
        (record,) = SalientDetector().detect(["x"], [open_image(image)])
        with torch.no_grad():
            logits = model(
                **tokenizer(QUESTION, return_tensors="pt"),
                visual_feats=torch.from_numpy(record.roi_features)[None],
                visual_pos=torch.from_numpy(record.boxes)[None],
            ).question_answering_score[0]
        ours = predictor(image, QUESTION)
        assert model.config.id2label[int(logits.argmax())] == ours.answer
        assert float(logits.sigmoid().max()) == pytest.approx(ours.score, abs=1e-6)
        seen.add(round(ours.score, 5))
    assert len(seen) == 4, "the image matters"


@pytest.mark.slow
def test_a_fine_tuned_run_has_the_accuracy_that_it_reported(home, tmp_path):
    settings = [
        "init=scratch",
        "prepare=none",
        f"directory={tmp_path / 'run'}",
        f"data.store={home / 'data' / 'easy_vqa'}",
        "data.lanes=1",
        "data.window_shards=1",
        "train.max_steps=4",
        "train.global_batch_size=8",
        "train.micro_batch_size=8",
        "train.threads=1",
        "tracking.mlflow=false",
    ]
    config = load_config(FinetuneConfig, ROOT / "configs/finetune/easy_vqa.toml", settings)
    torch.set_num_threads(1)
    join(World(), timeout_seconds=60)
    train(config, World(), "process")
    log = [metrics for _, metrics in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    (reported,) = (line["test/accuracy"] for line in log if "test/accuracy" in line)
    store = open_store(config.data.store)
    found = predict_split(load_answerer(str(tmp_path / "run")), store, "test")
    table = store.split("test").sentences
    _, right, _ = table.answers(range(table.num_pairs))
    answers = [store.answers[number] for number in right]
    assert len(found) == len(answers)
    hits = sum(one.answer == answer for one, answer in zip(found, answers, strict=True))
    assert hits / len(found) == pytest.approx(reported, abs=1e-6)
    predictor = Predictor.load(tmp_path / "run")
    assert predictor.detector.name == SalientDetector().name
    assert predictor(home / "photo.png", QUESTION).answer in store.answers
