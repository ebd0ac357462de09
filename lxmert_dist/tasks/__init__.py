"""What is trained: a task is the model, its heads, its losses and its collate function."""

from lxmert_dist.tasks.answering import AnsweringTask, answering_collate
from lxmert_dist.tasks.pretraining import PretrainingTask
from lxmert_dist.tasks.pretraining_collate import pretraining_collate
from lxmert_dist.tasks.transfer import TransferReport, load_pretrained

__all__ = [
    "AnsweringTask",
    "PretrainingTask",
    "TransferReport",
    "answering_collate",
    "load_pretrained",
    "pretraining_collate",
]
