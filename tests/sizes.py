"""The sizes that tests share: a model for a laptop's blink, and the published one."""

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.schema import DataSpec

SPEC = DataSpec(
    vocab_size=61,
    pad_id=0,
    cls_id=1,
    sep_id=2,
    mask_id=3,
    num_objects=5,
    feature_dim=12,
    num_object_classes=9,
    num_attribute_classes=6,
    num_answers=7,
)
MODEL = ModelConfig(
    hidden_size=16,
    num_heads=4,
    intermediate_size=24,
    num_language_layers=2,
    num_relationship_layers=1,
    num_cross_layers=2,
    max_positions=24,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
PUBLISHED = DataSpec(30522, 0, 101, 102, 103, 36, 2048, 1600, 400, 9500)
"""With the published ``ModelConfig()``."""
