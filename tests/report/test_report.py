"""The page of a run: what it shows, that it is whole, and that no text of the data acts in it."""

import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from report_page import QUOTE, SCRIPT, SECRET

from lxmert_dist.cli import report as command
from lxmert_dist.report import pictures, read_run
from lxmert_dist.report.pictures import find_picture
from lxmert_dist.report.statistics import count_data
from lxmert_dist.store import open_store
from lxmert_dist.tracking import read_metrics

pytest.importorskip("matplotlib")


class Elements(HTMLParser):
    """Every element's name and attributes, and all text outside of styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag):
        self._style = False

    def handle_data(self, data):
        self.text += "" if self._style else data


def page_of(directory, file, *options: str) -> tuple[str, Elements]:
    assert command.main([str(directory), "--out", str(file), *options]) == 0
    html = file.read_text("utf-8")
    return html, Elements(html)


@pytest.fixture(scope="module")
def pages(pretrained, tuned, tmp_path_factory):
    """HTML and elements of both runs, by their directories' names."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        run.name: page_of(run, folder / f"{run.name}.html", "--samples", "5")
        for run in (pretrained, tuned)
    }


def last_metrics(directory) -> dict[str, float]:
    log = read_metrics(directory / "metrics.jsonl")
    return {name: value for _, metrics in log for name, value in metrics.items()}


def test_a_pretraining_run_shows_its_figures_curves_data_and_samples(pretrained, pages):
    html, page = pages["pretrain"]
    last = last_metrics(pretrained)
    assert "12of 12" in page.text
    for words in (
        "masked lm",
        "roi feature",
        "gradient norm",
        "pairs per second",
        "max_steps = 12",
    ):
        assert words in page.text
    assert f"{last['unmasked_<b>captions/matching_accuracy']:.2%}" in page.text
    articles = [tag for tag, _ in page.found if tag == "article"]
    assert len(articles) == 5
    assert page.text.count("the model says that it") == 5
    assert html.count('class="picture"') == html.count('class="heat"') == 5
    assert "no image file at hand" in page.text


def test_a_fine_tuning_run_shows_answers_beside_those_of_people(tuned, pages):
    _, page = pages["tuned"]
    last = last_metrics(tuned)
    assert f"{100 * last['test/accuracy']:.2f} %" in page.text
    assert "published easy-VQA model" in page.text
    assert page.text.count("Answer;") + page.text.count("Answer\n") == 5
    assert "Sentence and image" not in page.text


def test_nothing_of_the_data_acts_in_the_page(pages):
    for html, page in pages.values():
        tags = {tag for tag, _ in page.found}
        assert not tags & {"script", "img", "iframe", "link", "object", "b>captions"}
        assert not [a for _, attributes in page.found for a in attributes if a.startswith("on")]
        assert SCRIPT in page.text
        assert QUOTE in page.text
        assert "<b>captions" in page.text
        assert "<script" not in html


def test_the_page_needs_no_other_and_keeps_secrets(pages):
    html, page = pages["pretrain"]
    for tag, attributes in page.found:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in html
    assert SECRET[:6] not in html
    assert "pass-word" not in html
    assert "password=[hidden]" in page.text
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_samples_are_what_the_store_holds_and_the_heads_say(pretrained, store):
    run = read_run(pretrained, samples=40, deep=True)
    again = read_run(pretrained, samples=40, deep=True)
    assert run.looked.samples == again.looked.samples
    split = open_store(store).split("valid")
    rows = dict(zip(split.image_ids, range(split.num_images), strict=True))
    for sample in run.looked.samples:
        row = rows[sample.image_id]
        assert [sample.height, sample.width] == split.sizes[row].tolist()
        assert len(sample.boxes) == split.num_boxes[row]
        left, top, right, bottom = split.boxes[row, 0] * np.tile([sample.width, sample.height], 2)
        box = sample.boxes[0]
        np.testing.assert_allclose([box.left, box.top], [left, top], rtol=1e-5)
        np.testing.assert_allclose([box.width, box.height], [right - left, bottom - top], rtol=1e-4)
        assert sum(one.looked for one in sample.boxes) == pytest.approx(1, abs=1e-5)
        assert len(sample.heat.values) == len(sample.words) == len(sample.heat.rest)
        for values, rest in zip(sample.heat.values, sample.heat.rest, strict=True):
            assert sum(values) + rest == pytest.approx(1, abs=1e-5)
        assert sample.words[0] == "[CLS]"
        assert sample.words[-1] == "[SEP]"
    verdicts = [sample.verdict for sample in run.looked.samples]
    assert {verdict.matched for verdict in verdicts} == {True, False}
    masked = [word for verdict in verdicts for word in verdict.masked]
    assert masked
    for word in masked:
        assert 0 < sum(guess.probability for guess in word.guesses) <= 1 + 1e-6
        assert [guess.right for guess in word.guesses] == [
            guess.text == word.truth for guess in word.guesses
        ]


def test_data_are_counted(store):
    opened = open_store(store)
    split = opened.split("train")
    found = count_data(opened, split, max_tokens=8)
    lengths = split.sentences.lengths()
    assert sum(row.number for row in found.lengths) == split.num_pairs
    assert {row.name: row.number for row in found.lengths}["12"] == (lengths == 12).sum()
    assert found.cut == (lengths > 6).sum()
    offsets, ids, _ = split.sentences.answers(range(split.num_pairs))
    assert found.answered == (np.diff(offsets) > 0).sum()
    assert sum(row.number for row in found.answers) == len(ids)
    assert found.answers[0].number == max(np.bincount(ids))
    assert sum(row.share for row in found.objects) == pytest.approx(1)  # there are 12 classes
    assert sum(row.number for row in found.objects) == split.num_boxes.sum()
    assert found.boxes == (2, pytest.approx(split.num_boxes.mean()), 4)


def test_an_image_is_found_by_its_id_and_never_outside_of_its_folder(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    folder = tmp_path / "images"
    (folder / "val").mkdir(parents=True)
    pillow.new("RGB", (600, 300), "red").save(folder / "val" / "7.jpg")
    pillow.new("RGB", (6, 3), "red").save(tmp_path / "secret.png")
    assert find_picture("val/7", folder, {}).startswith("data:image/jpeg;base64,")
    assert find_picture("val/8", folder, {}) == ""
    assert find_picture("../secret", folder, {}) == ""
    assert find_picture(str(tmp_path / "secret"), folder, {}) == ""
    assert find_picture("val/7", None, {}) == ""


def test_images_of_easy_vqa_are_found_in_its_package():
    pytest.importorskip("easy_vqa")
    picture = pictures.find_picture("test/0", None, {"dataset": "easy-vqa"})
    assert picture.startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no run", "config.toml is missing"),
        ("no log", "logged nothing yet"),
        ("no checkpoint", "--shallow"),
        ("no store", "there is no feature store"),
        ("other store", "--store"),
        ("no folder", "check --images"),
        ("no samples", "--samples counts from 1"),
    ],
)
def test_what_is_missing_is_told(case, said, pretrained, tiny_store, tmp_path, capsys):
    directory, options = tmp_path / "run", []
    directory.mkdir()
    if case != "no run":
        shutil.copy(pretrained / "config.toml", directory)
    if case != "no log":
        shutil.copy(pretrained / "metrics.jsonl", directory)
    if case not in ("no run", "no log", "no checkpoint"):
        shutil.copytree(pretrained / "checkpoints", directory / "checkpoints")
    match case:
        case "no store":
            options = ["--store", str(tmp_path / "nowhere")]
        case "other store":
            options = ["--store", tiny_store]
        case "no folder":
            options = ["--images", str(tmp_path / "nowhere")]
        case "no samples":
            options = ["--samples", "0"]
    assert command.main([str(directory), *options]) in (1, 2)
    assert said in capsys.readouterr().err
    assert not (directory / "report.html").exists()


def test_a_shallow_page_needs_neither_store_nor_checkpoint(pretrained, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    for name in ("config.toml", "metrics.jsonl"):
        shutil.copy(pretrained / name, directory)
    html, page = page_of(directory, tmp_path / "page.html", "--shallow")
    assert "Samples" not in page.text
    assert "masked lm" in page.text
    assert "<svg" in html
