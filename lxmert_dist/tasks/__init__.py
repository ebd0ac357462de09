"""What is trained: a task is the model, its heads, its losses and its collate function."""

from lxmert_dist.tasks.answering import (
    AnsweringTask,
    TransferReport,
    answering_collate,
    load_pretrained,
)
from lxmert_dist.tasks.pretraining import PretrainingTask, pretraining_collate

__all__ = [
    "AnsweringTask",
    "PretrainingTask",
    "TransferReport",
    "answering_collate",
    "load_pretrained",
    "pretraining_collate",
]
