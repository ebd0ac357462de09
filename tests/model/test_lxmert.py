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
from lxmert_dist.schema import ModelInputs
from sizes import MODEL, PUBLISHED, SPEC

CONFIG = MODEL.model_copy(update={"initializer_range": 0.2})


def build(config: ModelConfig = CONFIG, seed: int = 0) -> LxmertModel:
    torch.manual_seed(seed)
    return LxmertModel(config, SPEC)


def inputs(pairs: int = 4, tokens: int = 8) -> ModelInputs:
    draw = torch.Generator().manual_seed(1)
    lengths = 3 + torch.arange(pairs) % (tokens - 2)
    mask = torch.arange(tokens) < lengths[:, None]
    ids = torch.randint(4, SPEC.vocab_size, (pairs, tokens), generator=draw)
    return ModelInputs.pack(
        ids * mask,
        mask,
        torch.randn(pairs, 5, 12, generator=draw),
        torch.rand(pairs, 5, 4, generator=draw),
    )


def test_published_size() -> None:
    """228,051,752 parameters with 9,500 answers, 207,936,768 of them in the backbone."""
    config = ModelConfig()
    with torch.device("meta"):
        backbone = LxmertModel(config, PUBLISHED)
        heads = (
            MaskedLanguageHead(config, PUBLISHED),
            MatchingHead(config),
            VisualHead(config, PUBLISHED),
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
    zeroed = build(config.model_copy(update={"zero_padding_rows": True}))
    for table in ("word", "position", "token_type"):
        assert getattr(model.text_embedding, table).weight[0].any(), table
        rows = getattr(zeroed.text_embedding, table).weight.any(1)
        assert not rows[0], table
        assert rows[1:].all(), table
    again, other = build(config), build(config, seed=1)
    for mine, same, another in zip(*(m.parameters() for m in (model, again, other)), strict=True):
        assert torch.equal(mine, same)
        if mine.ndim > 1:
            assert not torch.equal(mine, another)


@pytest.mark.parametrize("multiple", [1, 4, 7, 100])
def test_padding_changes_nothing(multiple: int) -> None:
    """Outputs and gradients with packed padding, and a wider grid.

    Worst measured: outputs 9e-7, gradients 3.3e-6 where the largest of the tensor is 1.3.
    """
    model, batch = build(), inputs(tokens=8)
    wide = ModelInputs.pack(
        torch.nn.functional.pad(batch.padded_token_ids(), (0, 5), value=9),
        torch.nn.functional.pad(batch.attention_mask, (0, 5)),
        batch.roi_features,
        batch.boxes,
        multiple=multiple,
    )
    assert len(wide.token_ids) % multiple == 0 or len(wide.token_ids) == 4 * 13
    assert len(batch.token_ids) == batch.attention_mask.sum() <= len(wide.token_ids)
    real = wide.attention_mask.flatten()[wide.slots]
    gradients = []
    for these, rows in ((batch, slice(None)), (wide, real)):
        model.zero_grad()
        out = model(these)
        gradients.append((out.language[rows], out.vision, out.pooled))
        sum(part.square().sum() for part in gradients[-1]).backward()
        gradients[-1] += tuple(p.grad for p in model.parameters())
    for narrow, padded in zip(*gradients, strict=True):
        scale = max(1.0, float(narrow.detach().abs().max()))
        torch.testing.assert_close(narrow, padded, rtol=0, atol=1e-5 * scale)


def test_only_what_is_read_comes_out() -> None:
    """Worst measured: 5e-7."""
    model, batch = build(), inputs()
    tokens, objects = torch.tensor([1, 5, 6]), torch.tensor([0, 7, 19])
    full, read = model(batch), model(batch, tokens=tokens, objects=objects)
    for a, b in (
        (full.language[tokens], read.language),
        (full.vision[objects], read.vision),
        (full.pooled, read.pooled),
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)
    nothing = torch.zeros(0, dtype=torch.int64)
    assert model(batch, tokens=nothing, objects=nothing).language.shape == (0, 16)


@pytest.mark.parametrize("masked", [False, True])
def test_pairs_that_share_an_image(masked: bool) -> None:
    """The same outputs and gradients as with a copy of the image each. Worst measured: 6e-7."""
    model, batch = build(), inputs(pairs=5)
    index = torch.tensor([0, 0, 0, 1, 1])
    features, boxes = batch.roi_features[:2], batch.boxes[:2]
    mask = torch.tensor([[True] * 4 + [False], [True] * 5]) if masked else None
    shared = replace(batch, roi_features=features, boxes=boxes, image_index=index, object_mask=mask)
    apart = replace(
        batch,
        roi_features=features[index],
        boxes=boxes[index],
        object_mask=None if mask is None else mask[index],
    )
    seen = []
    for these in (shared, apart):
        model.zero_grad()
        out = model(these)
        real = torch.ones(25, dtype=torch.bool) if mask is None else mask[index].flatten()
        outputs = (out.language, out.vision[real], out.pooled)
        sum(part.square().sum() for part in outputs).backward()
        seen.append(outputs + tuple(p.grad for p in model.parameters()))
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(
            a, b, rtol=0, atol=2e-6 * max(1.0, float(a.detach().abs().max()))
        )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_changes_nothing(dropout: float) -> None:
    """Bit for bit, dropout included."""
    config = CONFIG.model_copy(update={"hidden_dropout": dropout, "attention_dropout": dropout})
    seen = []
    for recompute in (False, True):
        model = build(config)
        if recompute:
            model.recompute_activations()
        torch.manual_seed(3)
        out = model(inputs())
        (out.pooled.square().sum() + out.vision.square().sum()).backward()
        seen.append([out.pooled, *(p.grad for p in model.parameters())])
    for a, b in zip(*seen, strict=True):
        assert torch.equal(a, b)


def test_object_mask_hides_objects() -> None:
    model, batch = build(), inputs()
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[:, 3:] = False
    features = batch.roi_features.clone()
    features[:, 3:] += 1
    changed = replace(batch, roi_features=features)
    seen, unseen = (model(replace(b, object_mask=mask)) for b in (batch, changed))
    torch.testing.assert_close(seen.language, unseen.language, rtol=0, atol=0)
    there = mask.flatten()
    torch.testing.assert_close(seen.vision[there], unseen.vision[there], rtol=0, atol=0)
    assert not torch.allclose(model(batch).pooled, model(changed).pooled, atol=1e-6)


def test_all_objects_mask_is_no_mask() -> None:
    """Bit equal where it was measured (torch 2.15, CPU)."""
    model, batch = build(), inputs()
    everything = replace(batch, object_mask=torch.ones(4, 5, dtype=torch.bool))
    for a, b in zip(model(batch), model(everything), strict=True):
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


def test_without_token_type() -> None:
    config = CONFIG.model_copy(update={"token_type": False})
    model, batch = build(config), inputs()
    out = model(batch).pooled
    out.square().sum().backward()
    table = model.text_embedding.token_type.weight
    assert table.grad is None
    assert not torch.allclose(out, build()(batch).pooled, atol=1e-6)
    with torch.no_grad():
        table.zero_()
    zeroed = build()
    zeroed.load_state_dict(model.state_dict())
    torch.testing.assert_close(out, zeroed(batch).pooled, rtol=0, atol=2e-6)


def test_tied_word_gradient() -> None:
    """Of look-up and decoder together, against plain autograd; [PAD] passes none to the look-up."""
    model = build().text_embedding
    ids, positions = torch.tensor([1, 7, 0, 7, 2]), torch.arange(5)
    head = MaskedLanguageHead(CONFIG, SPEC)
    rows, table = model(ids, positions)
    head(rows, table).square().sum().backward()
    found = model.word.weight.grad
    weight = model.word.weight.detach().requires_grad_()
    words = torch.nn.functional.embedding(ids, weight, padding_idx=0)
    embedded = words + model.position(positions) + model.token_type(torch.zeros_like(ids))
    head(model.layer_norm(embedded), weight).square().sum().backward()
    torch.testing.assert_close(found, weight.grad, rtol=1e-6, atol=1e-6)


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
    outputs = [model(batch), model.bfloat16()(batch)]
    for name in ("language", "vision", "pooled"):
        exact, found = (getattr(output, name) for output in outputs)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), exact, rtol=0, atol=0.1, msg=name)
