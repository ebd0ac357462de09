"""Raw public data -> a store: images through a detector, sentences through a tokenizer."""

from lxmert_dist.ingest.build import build_store
from lxmert_dist.ingest.easy_vqa import prepare_easy_vqa
from lxmert_dist.ingest.matching import matching_ceiling
from lxmert_dist.ingest.tokenizer import load_tokenizer, train_wordpiece

__all__ = [
    "build_store",
    "load_tokenizer",
    "matching_ceiling",
    "prepare_easy_vqa",
    "train_wordpiece",
]
