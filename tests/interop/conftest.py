"""Tiny weights, and functions that save and convert them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    BertForPreTraining,
    LxmertForPreTraining,
    LxmertForQuestionAnswering,
    PreTrainedModel,
)

from lxmert_dist.interop import Request, convert
from lxmert_dist.interop.card import Conversion
from lxmert_dist.interop.source import Guess, Source, of_path
from tiny_weights import theirs


@pytest.fixture
def pretraining() -> PreTrainedModel:
    return theirs(LxmertForPreTraining)


@pytest.fixture
def answering() -> PreTrainedModel:
    return theirs(LxmertForQuestionAnswering)


@pytest.fixture
def bert() -> PreTrainedModel:
    return theirs(BertForPreTraining)


@pytest.fixture
def turn(tmp_path: Path) -> Callable[..., tuple[Path, Conversion]]:
    """A function that converts a path, or an opened source, to a format."""
    count = iter(range(100))

    def turn(source: Path | Source, to: str, **options: object) -> tuple[Path, Conversion]:
        out = tmp_path / f"export {next(count)}"
        opened = of_path(source, Guess(num_heads=4)) if isinstance(source, Path) else source
        return out, convert(opened, Request(to=to, out=out, **options))

    return turn


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """A function that keeps tensors in a file of ``torch.save``."""

    def save(tensors: dict[str, Tensor], name: str = "model_LXRT.pth", **options: object) -> Path:
        torch.save(tensors, tmp_path / name, **options)
        return tmp_path / name

    return save
