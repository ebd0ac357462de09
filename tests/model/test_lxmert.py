"""The backbone: size, initialisation, masks, frozen rows, the spared branch, precision."""

from dataclasses import replace

import pytest
import torch

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.model import (
    AnswerHead,
    LxmertModel,
    MaskedLanguageHead,
    MatchingHead,
    VisualHead,
)
from lxmert_dist.schema import DataSpec, ModelInputs

SPEC = DataSpec(
    vocab_size=50,
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
CONFIG = ModelConfig(
    hidden_size=16,
    num_heads=4,
    intermediate_size=24,
    num_language_layers=2,
    num_relationship_layers=1,
    num_cross_layers=2,
    max_positions=16,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    initializer_range=0.2,
)


def build(config: ModelConfig = CONFIG, seed: int = 0) -> LxmertModel:
    torch.manual_seed(seed)
    return LxmertModel(config, SPEC)


def inputs(pairs: int = 4, tokens: int = 8) -> ModelInputs:
    draw = torch.Generator().manual_seed(1)
    lengths = 3 + torch.arange(pairs) % (tokens - 2)
    mask = torch.arange(tokens) < lengths[:, None]
    ids = torch.randint(4, SPEC.vocab_size, (pairs, tokens), generator=draw)
    return ModelInputs(
        token_ids=ids * mask,
        attention_mask=mask,
        roi_features=torch.randn(pairs, 5, 12, generator=draw),
        boxes=torch.rand(pairs, 5, 4, generator=draw),
    )


def test_published_size() -> None:
    """228,051,752 parameters with 9,500 answers, 207,936,768 of them in the backbone."""
    published = DataSpec(30522, 0, 101, 102, 103, 36, 2048, 1600, 400, 9500)
    config = ModelConfig()
    with torch.device("meta"):
        backbone = LxmertModel(config, published)
        heads = (
            MaskedLanguageHead(config, published),
            MatchingHead(config),
            VisualHead(config, published),
            AnswerHead(config, 9500),
        )
    sizes = [sum(p.numel() for p in part.parameters()) for part in (backbone, *heads)]
    assert sizes[0] == 207_936_768
    assert sizes[1] + sizes[2] == 624_188
    assert sizes[3:] == [3_705_040, 15_785_756]
    assert sum(sizes) == 228_051_752


def test_initialisation() -> None:
    """N(0, range) also in the padding rows, zero biases, unit norms; one seed, one model."""
    config = CONFIG.model_copy(update={"hidden_size": 128, "initializer_range": 0.05})
    model = build(config)
    for name, value in model.state_dict().items():
        if "norm" in name:
            assert (value == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert not value.any(), name
        elif value.numel() > 1000:
            assert float(value.std()) == pytest.approx(0.05, rel=0.1), name
            assert abs(float(value.mean())) < 0.01, name
    for table in ("word", "position", "token_type"):
        assert getattr(model.text_embedding, table).weight[0].any(), table
    again, other = build(config), build(config, seed=1)
    for mine, same, another in zip(*(m.parameters() for m in (model, again, other)), strict=True):
        assert torch.equal(mine, same)
        if mine.ndim > 1:
            assert not torch.equal(mine, another)


def test_padding_changes_nothing() -> None:
    """Worst measured: 9e-7."""
    model, batch = build(), inputs(tokens=8)
    wide = ModelInputs(
        torch.nn.functional.pad(batch.token_ids, (0, 5), value=9),
        torch.nn.functional.pad(batch.attention_mask, (0, 5)),
        batch.roi_features,
        batch.boxes,
    )
    narrow, padded = model(batch), model(wide)
    real = batch.attention_mask
    for a, b in (
        (narrow.language[real], padded.language[:, :8][real]),
        (narrow.vision, padded.vision),
        (narrow.pooled, padded.pooled),
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_object_mask_hides_objects() -> None:
    model, batch = build(), inputs()
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[:, 3:] = False
    features = batch.roi_features.clone()
    features[:, 3:] += 1
    changed = replace(batch, roi_features=features)
    seen, unseen = model(batch, mask), model(changed, mask)
    torch.testing.assert_close(seen.language, unseen.language, rtol=0, atol=0)
    torch.testing.assert_close(seen.vision[:, :3], unseen.vision[:, :3], rtol=0, atol=0)
    assert not torch.allclose(model(batch).pooled, model(changed).pooled, atol=1e-6)


def test_all_objects_mask_is_no_mask() -> None:
    """Bit equal where it was measured (torch 2.15, CPU)."""
    model, batch = build(), inputs()
    everything = torch.ones(4, 5, dtype=torch.bool)
    for a, b in zip(model(batch), model(batch, everything), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_without_vision() -> None:
    """Language and pooled are the same, the last visual branch takes no part, the rest does."""
    model, batch = build(), inputs()
    full, spared = model(batch), model(batch, need_vision=False)
    assert spared.vision is None
    assert torch.equal(full.language, spared.language)
    assert torch.equal(full.pooled, spared.pooled)
    spared.pooled.square().sum().backward()
    branch = {id(p) for p in model.cross_modality_encoder.last_visual_branch()}
    assert len(branch) == 12
    for name, value in model.named_parameters():
        assert (value.grad is None) == (id(value) in branch), name


@pytest.mark.parametrize("trainable", [False, True])
def test_padding_rows(trainable: bool) -> None:
    model = build(CONFIG.model_copy(update={"trainable_padding_rows": trainable}))
    model(inputs()).pooled.square().sum().backward()
    text = model.text_embedding
    assert bool(text.position.weight.grad[0].any()) == trainable
    assert bool(text.token_type.weight.grad[0].any()) == trainable
    assert text.position.weight.grad[1].any()


@pytest.mark.parametrize("setting", ["hidden_dropout", "attention_dropout"])
def test_dropout_acts_in_training_only(setting: str) -> None:
    model, batch = build(CONFIG.model_copy(update={setting: 0.5})), inputs()
    assert not torch.equal(model(batch).pooled, model(batch).pooled)
    model.eval()
    assert torch.equal(model(batch).pooled, model(batch).pooled)
    torch.testing.assert_close(model(batch).pooled, build()(batch).pooled, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_host_dtypes_are_cast(dtype: torch.dtype) -> None:
    """Worst measured: 1e-4, the rounding of float16."""
    batch = inputs()
    other = replace(batch, roi_features=batch.roi_features.to(dtype), boxes=batch.boxes.to(dtype))
    model = build()
    torch.testing.assert_close(model(other).pooled, model(batch).pooled, rtol=0, atol=1e-3)


def test_bf16_weights() -> None:
    """Worst measured: 0.05 of values up to 2.5 (bfloat16 keeps 8 bits)."""
    model, batch = build(), inputs()
    expected = model(batch)
    found = model.bfloat16()(batch)
    for name, a, b in zip(expected._fields, expected, found, strict=True):
        assert b.dtype == torch.bfloat16
        torch.testing.assert_close(a, b.float(), rtol=0, atol=0.1, msg=lambda m, n=name: n + m)
