"""The public data sets as they were published, each against what was worked out by hand."""

import json

import pytest

from lxmert_dist import json_list
from lxmert_dist.errors import DataError
from lxmert_dist.ingest.coco_captions import CocoCaptions
from lxmert_dist.ingest.gqa import GqaQuestions
from lxmert_dist.ingest.sentence_files import SentenceFile
from lxmert_dist.ingest.visual_genome import VgFile, VgImages, read_image_data
from lxmert_dist.ingest.vqa import VqaQuestions
from lxmert_dist.ingest.vqa_answers import soft_scores
from lxmert_dist.scoring.vqa_answers import normalise_vqa_answer

# What the published files hold beside what is read; an annotation of VQA v2 stands first of all.
VQA_HEAD = {
    "info": {"description": "This is v2.0 of the VQA dataset.", "version": "2.0", "year": 2017},
    "license": {"url": "http://creativecommons.org/licenses/by/4.0/", "name": "CC BY 4.0"},
    "data_subtype": "train2014",
}


def questions(*entries):
    return {
        "info": VQA_HEAD["info"],
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "license": VQA_HEAD["license"],
        "data_subtype": "train2014",
        "questions": [
            {"image_id": image, "question": text, "question_id": number}
            for number, image, text in entries
        ],
    }


def annotations(*entries):
    return {
        **VQA_HEAD,
        "annotations": [
            {
                "question_type": "what is",
                "multiple_choice_answer": answers[0],
                "answers": [
                    {"answer": answer, "answer_confidence": "maybe", "answer_id": place}
                    for place, answer in enumerate(answers, 1)
                ],
                "image_id": image,
                "answer_type": "other",
                "question_id": number,
            }
            for number, image, answers in entries
        ],
        "data_type": "mscoco",
    }


TWO_ASKED = questions((458752000, 458752, "What is this?"), (9002, 9, "How many?"))
TWO_ANSWERED = annotations(
    (458752000, 458752, ["net"] * 6 + ["a net", "netting", "netting", "The mesh"]),
    (9002, 9, ["two"] * 3 + ["2"] * 6 + ["the"]),
)


def write(path, content):
    path.write_text(json.dumps(content, indent=1))
    return path


def read_all(file):
    """The items, and that the bar has come to its end."""
    assert isinstance(file, SentenceFile)
    seen = []
    found = list(file.items(seen.append))
    assert sum(seen) == sum(path.stat().st_size for path in file.paths)
    assert found == list(file.items(lambda _: None))
    return found


def vqa(tmp_path, asked=TWO_ASKED, answered=TWO_ANSWERED, **settings):
    paths = (
        write(tmp_path / "questions.json", asked),
        write(tmp_path / "annotations.json", answered),
    )
    return VqaQuestions(*paths, **settings)


def test_vqa_gives_soft_scores_under_the_names_of_coco(tmp_path):
    first, second = read_all(vqa(tmp_path))
    assert first.image_id == "COCO_train2014_000000458752"
    assert first.sentences == {"vqa": ["What is this?"]}
    assert first.labels == {"vqa": [{"net": 1.0, "netting": 0.6, "mesh": 0.3}]}
    assert second.image_id == "COCO_train2014_000000000009"
    assert second.labels == {"vqa": [{"2": 1.0}]}  # "the" is nothing without its article
    assert first.where.startswith(str(tmp_path / "questions.json:"))


def test_vqa_can_score_in_thirds(tmp_path):
    first, _ = read_all(vqa(tmp_path, scores="thirds"))
    assert first.labels == {"vqa": [{"net": 1.0, "netting": 2 / 3, "mesh": 1 / 3}]}


@pytest.mark.parametrize("n", range(1, 11))
def test_leaving_one_out_is_the_mean_over_those_left_out(n):
    people = ["yes"] * n + [f"x{i}" for i in range(10 - n)]
    means = [min(1, (people[:i] + people[i + 1 :]).count("yes") / 3) for i in range(10)]
    assert soft_scores(people, "leave-one-out")["yes"] == pytest.approx(sum(means) / 10)
    published = {1: 0.3, 2: 0.6, 3: 0.9}.get(n, 1.0)
    assert soft_scores(people, "leave-one-out")["yes"] == published  # to the last bit


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  A Dog.\n", "dog"),
        ("the man's hat", "man's hat"),
        ("1,000", "1000"),
        ("10,000 km/h", "10000 kmh"),
        ("black-and-white", "black and white"),
        ("black, white", "black white"),
        ("yes/no", "yes no"),
        ("4.5", "4.5"),
        ("mr. bean", "mr bean"),
        ("none", "0"),
        ("Twenty One", "twenty 1"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("its", "its"),
        ("3 o clock", "3 o clock"),
        ("oclock", "o'clock"),
        ("what?", "what"),
        ("a", ""),
    ],
)
def test_answers_are_normalised_as_the_evaluation_does(given, expected):
    # worked out by running the published evaluation's two steps on each
    assert normalise_vqa_answer(given) == expected


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_the_two_files_of_vqa_need_not_have_one_order(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_list, "BLOCK", block)
    asked = questions(*((i, 7, f"q{i}?") for i in range(20)))
    answered = annotations(*((i, 7, [f"a{i}"] * 10) for i in reversed(range(20))))
    found = read_all(vqa(tmp_path, asked, answered))
    assert {i.sentences["vqa"][0]: [*i.labels["vqa"][0]] for i in found} == {
        f"q{i}?": [f"a{i}"] for i in range(20)
    }


def without(content, key):
    return {name: value for name, value in content.items() if name != key}


YES = ["yes"] * 10


@pytest.mark.parametrize(
    ("asked", "answered", "message"),
    [
        (
            questions((1, 7, "a?"), (2, 7, "b?")),
            annotations((1, 7, YES)),
            r"questions.json:\d+: question 2 has no annotation",
        ),
        (
            questions((1, 7, "a?")),
            annotations((1, 7, YES), (3, 7, YES)),
            r"annotations.json:\d+: question 3 has no question in",
        ),
        (
            questions((1, 7, "a?"), (1, 7, "b?")),
            annotations((1, 7, YES), (2, 7, YES)),
            r"questions.json:\d+: question_id 1 came before",
        ),
        (
            questions((1, 7, "a?"), (2, 7, "b?")),
            annotations((1, 7, YES), (1, 7, YES)),
            r"annotations.json:\d+: question_id 1 came before",
        ),
        (
            questions((1, 7, "a?")),
            annotations((1, 8, YES)),
            r"annotations.json:\d+: question 1 is about image 8, but .*questions.json:\d+ says 7",
        ),
        (questions((1, "7", "a?")), annotations((1, 7, YES)), r":\d+: image_id is '7', expected a"),
        (questions(("1", 7, "a?")), annotations((1, 7, YES)), r":\d+: question_id is '1', expec"),
        (questions((1, 7, None)), annotations((1, 7, YES)), r":\d+: question is None, expected t"),
        (questions((1, 7, "a?")), annotations((1, 7, [7])), r":\d+: answers of question 1 are no"),
        (without(TWO_ASKED, "data_subtype"), TWO_ANSWERED, "questions.json: no data_subtype"),
        (TWO_ASKED, TWO_ASKED, r'annotations.json: holds no {"annotations": '),
        ([], TWO_ANSWERED, "questions.json:1: expected an object, as in"),
    ],
)
def test_what_is_wrong_with_vqa_is_named(tmp_path, asked, answered, message):
    with pytest.raises(DataError, match=message):
        list(vqa(tmp_path, asked, answered).items(lambda _: None))


IMAGE_DATA = [
    {"width": 800, "url": "u", "height": 600, "image_id": 1, "coco_id": None, "flickr_id": None},
    {
        "width": 640,
        "url": "u",
        "height": 480,
        "image_id": 2354786,
        "coco_id": 57870,
        "flickr_id": 3,
    },
]
COCO_NAMES = ("COCO_train2014_000000057870", "COCO_val2014_000000057870")
GQA = {
    "02930152": {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
        "entailed": ["02930160"],
        "equivalent": ["02930152"],
        "question": "Is the sky dark?",
        "imageId": "2354786",
        "isBalanced": True,
        "groups": {"global": None, "local": "06-sky_dark"},
        "answer": "yes",
        "semanticStr": "select: sky (2486325)->verify color: dark [0]",
        "annotations": {"answer": {}, "question": {"2": "2486325"}, "fullAnswer": {"2": "2486325"}},
        "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
        "fullAnswer": "Yes, the sky is dark.",
    },
    "201307251": {"question": "What is it?", "imageId": "n161313", "isBalanced": True},
}


def test_image_data_say_which_images_are_of_coco(tmp_path):
    images = read_image_data(write(tmp_path / "image_data.json", IMAGE_DATA))
    assert images == VgImages({2354786: 57870})
    assert images.other_names("2354786") == COCO_NAMES
    assert images.other_names("1") == images.other_names("n161313") == ()


def test_gqa_keeps_its_ids_and_answers(tmp_path):
    path = write(tmp_path / "train_balanced_questions.json", GQA)
    first, second = read_all(GqaQuestions(path, VgImages({2354786: 57870})))
    assert (first.image_id, first.other_names) == ("2354786", COCO_NAMES)
    assert (first.sentences, first.labels) == (
        {"gqa": ["Is the sky dark?"]},
        {"gqa": [{"yes": 1.0}]},
    )
    assert (second.image_id, second.labels, second.other_names) == ("n161313", {"gqa": [{}]}, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"1": {"imageId": 7, "question": "a?"}}', ":1: imageId of question '1' is 7, expected"),
        ('{"1":\n{"imageId": "7"}}', ":2: question '1' has no text under 'question'"),
        (
            '{"1": {"imageId": "7", "question": "a?"},\n "1": {"imageId": "7", "question": "b?"}}',
            ":2: question '1' came before in this file",
        ),
        (
            '{"1": {"imageId": "7", "question": "a?", "answer": 3}}',
            ":1: answer of question '1' is 3, expected text",
        ),
        ('{"questions": [1]}', ':1: expected {"<question id>"'),
        ("{}", ": holds no questions"),
    ],
)
def test_what_is_wrong_with_gqa_is_named(tmp_path, text, message):
    (tmp_path / "gqa.json").write_text(text)
    with pytest.raises(DataError, match=f"gqa.json{message}"):
        list(GqaQuestions(tmp_path / "gqa.json", VgImages()).items(lambda _: None))


VG_QA = [
    {
        "id": 1,
        "qas": [
            {
                "a_objects": [],
                "question": "What color is the clock?",
                "image_id": 1,
                "qa_id": 986768,
                "answer": "Green.",
                "q_objects": [],
            },
            {"question": "Who is it?", "image_id": 1, "qa_id": 986777, "answer": "The man."},
        ],
    },
    {"id": 2354786, "qas": []},
]
VG_REGIONS = [
    {
        "regions": [
            {
                "region_id": 1382,
                "width": 82,
                "height": 139,
                "image_id": 1,
                "phrase": "the clock is green in colour",
                "y": 57,
                "x": 421,
            },
            {"region_id": 1383, "image_id": 1, "phrase": "a man\n"},
        ],
        "id": 1,
    },
    {"image_id": 2354786, "regions": [{"region_id": 9, "phrase": "a cat"}]},
]


def test_questions_of_visual_genome_are_grouped_by_image(tmp_path):
    path = write(tmp_path / "question_answers.json", VG_QA)
    first, second = read_all(VgFile(path, "questions", VgImages({2354786: 57870})))
    assert (first.image_id, first.other_names) == ("1", ())
    assert first.sentences == {"visual7w": ["What color is the clock?", "Who is it?"]}
    assert first.labels == {"visual7w": [{"Green.": 1.0}, {"The man.": 1.0}]}
    assert (second.num_sentences, second.other_names) == (0, COCO_NAMES)


def test_regions_of_visual_genome_are_sentences_about_the_whole_image(tmp_path):
    path = write(tmp_path / "region_descriptions.json", VG_REGIONS)
    first, second = read_all(VgFile(path, "regions", VgImages()))
    assert first.sentences == {"vg": ["the clock is green in colour", "a man\n"]}
    assert first.labels == {}
    assert (second.image_id, second.sentences) == ("2354786", {"vg": ["a cat"]})


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("questions", VG_REGIONS, ":1: image 1 has no list of objects under 'qas'; name a "),
        ("regions", [*VG_REGIONS, VG_REGIONS[0]], ":1: image 1 came before in this file"),
        ("regions", [{"id": "1", "regions": []}], ":1: id is '1', expected a whole number"),
        (
            "regions",
            [{"id": 1, "regions": [{"region_id": 5}]}],
            ":1: image 1: phrase of region 5 is None, expected text",
        ),
        (
            "questions",
            [{"id": 1, "qas": [{"qa_id": 5, "question": "a?"}]}],
            ":1: image 1: qa_id 5 has question 'a\\?' and answer None",
        ),
        (
            "questions",
            [{"id": 1, "qas": [{"qa_id": 5, "question": "a?", "answer": "b"}] * 2}],
            ":1: image 1: qa_id 5 comes twice",
        ),
        ("regions", {"id": 1}, ":1: expected a list"),
        ("regions", [], ": holds no images"),
    ],
)
def test_what_is_wrong_with_visual_genome_is_named(tmp_path, kind, content, message):
    (tmp_path / "vg.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"vg.json{message}"):
        list(VgFile(tmp_path / "vg.json", kind, VgImages()).items(lambda _: None))


def coco(*captions, **changes):
    return {
        "info": {"year": 2014, "contributor": "Microsoft COCO group"},
        "images": [
            {
                "license": 5,
                "file_name": "COCO_train2014_000000057870.jpg",
                "coco_url": "http://mscoco.org/images/57870",
                "height": 480,
                "width": 640,
                "date_captured": "2013-11-14 16:28:13",
                "flickr_url": "http://farm4.staticflickr.com/3153/2970773875_164f0c0b83_z.jpg",
                "id": 57870,
            },
            {"file_name": "train2014/COCO_train2014_000000000009.jpg", "id": 9},
        ],
        "licenses": [{"url": "http://creativecommons.org/", "id": 1, "name": "Attribution"}],
        "annotations": [{"image_id": i, "id": n, "caption": text} for n, i, text in captions],
    } | changes


@pytest.mark.parametrize("images_first", [True, False])
def test_captions_of_coco_are_called_by_the_image_files(tmp_path, images_first):
    content = coco((48, 57870, "A very clean room."), (37, 9, "A cat."), (67, 57870, "Chairs"))
    if not images_first:
        content = dict(reversed(content.items()))
    found = read_all(CocoCaptions(write(tmp_path / "captions_train2014.json", content)))
    assert [(item.image_id, item.sentences["mscoco"]) for item in found] == [
        ("COCO_train2014_000000057870", ["A very clean room."]),
        ("COCO_train2014_000000000009", ["A cat."]),
        ("COCO_train2014_000000057870", ["Chairs"]),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco((1, 8, "a")), ":1: image_id 8 is not one of the file's images"),
        (coco((1, 9, "a"), (1, 9, "b")), ":1: caption 1 came before in this file"),
        (coco((1, 9, None)), ":1: expected a caption, "),
        (coco((1, 9, "a"), images=[{"id": 9}]), ":1: expected an image, "),
        (coco((1, 9, "a"), images=[{"id": 9, "file_name": "a.jpg"}] * 2), ":1: image 9 came befo"),
        (coco(), ": holds no captions; expected"),
        (TWO_ASKED, ": holds no captions; expected"),
    ],
)
def test_what_is_wrong_with_captions_is_named(tmp_path, content, message):
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"c.json{message}"):
        list(CocoCaptions(tmp_path / "c.json").items(lambda _: None))
