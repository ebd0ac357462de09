"""Raw public data -> a store: images through a detector, sentences through a tokenizer."""

from lxmert_dist.ingest.amounts import show_amounts
from lxmert_dist.ingest.build import build_store
from lxmert_dist.ingest.butd_tsv import RowSizes
from lxmert_dist.ingest.coco_captions import CocoCaptions
from lxmert_dist.ingest.easy_vqa import prepare_easy_vqa
from lxmert_dist.ingest.feature_store import ExtractionOptions, extract_features
from lxmert_dist.ingest.gqa import GqaQuestions
from lxmert_dist.ingest.image_list import list_images
from lxmert_dist.ingest.lxmert import FeatureFormat, prepare_lxmert
from lxmert_dist.ingest.lxmert_json import AnswerTable
from lxmert_dist.ingest.matching import matching_ceiling
from lxmert_dist.ingest.nlvr1_store import prepare_nlvr1
from lxmert_dist.ingest.own_sentences import OwnSentences, collect_answers
from lxmert_dist.ingest.pool import available_processes
from lxmert_dist.ingest.report import IngestReport
from lxmert_dist.ingest.selection import LxmertFiles
from lxmert_dist.ingest.sentence_files import LxmertJson, SentenceFile
from lxmert_dist.ingest.synthetic import SyntheticImages, prepare_synthetic
from lxmert_dist.ingest.task_questions import NLVR2_ANSWERS, Nlvr2Lines, TaskJson
from lxmert_dist.ingest.tokenizer import load_tokenizer, train_wordpiece
from lxmert_dist.ingest.visual_genome import VgFile, VgImages, read_image_data
from lxmert_dist.ingest.vqa import VqaQuestions

__all__ = [
    "NLVR2_ANSWERS",
    "AnswerTable",
    "CocoCaptions",
    "ExtractionOptions",
    "FeatureFormat",
    "GqaQuestions",
    "IngestReport",
    "LxmertFiles",
    "LxmertJson",
    "Nlvr2Lines",
    "OwnSentences",
    "RowSizes",
    "SentenceFile",
    "SyntheticImages",
    "TaskJson",
    "VgFile",
    "VgImages",
    "VqaQuestions",
    "available_processes",
    "build_store",
    "collect_answers",
    "extract_features",
    "list_images",
    "load_tokenizer",
    "matching_ceiling",
    "prepare_easy_vqa",
    "prepare_lxmert",
    "prepare_nlvr1",
    "prepare_synthetic",
    "read_image_data",
    "show_amounts",
    "train_wordpiece",
]
