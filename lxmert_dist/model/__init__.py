"""The three encoders of LXMERT and the heads of its tasks (arXiv 1908.07490, section 2)."""

from lxmert_dist.model.attention_maps import AttentionMaps, read_attention
from lxmert_dist.model.heads import (
    AnswerHead,
    MaskedLanguageHead,
    MatchingHead,
    VisualHead,
    VisualPredictions,
)
from lxmert_dist.model.lxmert import EncoderOutput, LxmertModel

__all__ = [
    "AnswerHead",
    "AttentionMaps",
    "EncoderOutput",
    "LxmertModel",
    "MaskedLanguageHead",
    "MatchingHead",
    "VisualHead",
    "VisualPredictions",
    "read_attention",
]
