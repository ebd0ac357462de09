"""Which files of sentences ``launch/prepare.py`` reads: options, and the files that they name."""

import argparse
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxmert_dist.errors import ConfigError

if TYPE_CHECKING:
    from lxmert_dist.ingest import SentenceFile

_SOURCES = (
    ("--json", "sentences and labels as LXMERT published them"),
    ("--vqa-questions", "VQA v2, such as v2_OpenEnded_mscoco_train2014_questions.json"),
    ("--vqa-annotations", "their answers, in the same order of files; - where there are none"),
    ("--gqa", "GQA, such as train_balanced_questions.json"),
    ("--vg-qa", "Visual Genome's question_answers.json"),
    ("--vg-regions", "Visual Genome's region_descriptions.json"),
    ("--coco-captions", "such as captions_train2014.json"),
    ("--task-json", "VQA, GQA or NLVR2 as LXMERT published them for fine-tuning"),
    ("--nlvr2", "NLVR2's own files, such as dev.json"),
)

NOTHING = "name at least one file of sentences: " + ", ".join(name for name, _ in _SOURCES)


def add_sentence_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each published format, and those that say how to read it."""
    group = parser.add_argument_group("sentences, any mixture")
    several: dict[str, Any] = {"nargs": "+", "type": Path, "default": [], "metavar": "FILE"}
    for name, text in _SOURCES:
        group.add_argument(name, help=text, **several)
    group.add_argument(
        "--vqa-scores",
        choices=("leave-one-out", "thirds"),
        default="leave-one-out",
        help="of n equal answers of ten: as the official accuracy and LXMERT's labels have it "
        "(0.3, 0.6, 0.9, 1), or n/3 up to 1",
    )
    group.add_argument(
        "--vg-image-data",
        type=Path,
        metavar="FILE",
        help="Visual Genome's image_data.json: its images that are COCO's take COCO's features",
    )


def sentence_files(arguments: argparse.Namespace) -> "list[SentenceFile]":
    """The files that the options name.

    Raises:
        ConfigError: there are none, or questions and annotations of VQA are not as many.
        DataError: ``image_data.json`` cannot be read.
    """
    from lxmert_dist import ingest

    given = arguments
    images = ingest.VgImages()
    if given.vg_image_data is not None:
        images = ingest.read_image_data(given.vg_image_data)
    files: list[SentenceFile] = [
        *map(ingest.LxmertJson, given.json),
        *_vqa(given.vqa_questions, given.vqa_annotations, given.vqa_scores),
        *(ingest.GqaQuestions(path, images) for path in given.gqa),
        *(ingest.VgFile(path, "questions", images) for path in given.vg_qa),
        *(ingest.VgFile(path, "regions", images) for path in given.vg_regions),
        *map(ingest.CocoCaptions, given.coco_captions),
        *map(ingest.TaskJson, given.task_json),
        *map(ingest.Nlvr2Lines, given.nlvr2),
    ]
    if not files:
        raise ConfigError(NOTHING)
    return files


def _vqa(
    questions: Sequence[Path], annotations: Sequence[Path], scores: Any
) -> "list[SentenceFile]":
    from lxmert_dist.ingest import VqaQuestions

    files: list[SentenceFile] = []
    for asked, answered in zip_longest(questions, annotations):
        if asked is None or answered is None:
            raise ConfigError(
                f"{asked or answered} lacks its other half; give --vqa-questions and "
                "--vqa-annotations as many files, in the same order"
            )
        files.append(VqaQuestions(asked, None if str(answered) == "-" else answered, scores))
    return files
