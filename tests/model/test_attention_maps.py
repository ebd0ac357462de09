"""What is looked at, against transformers and against dense softmaxes of its hidden states."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn
from transformers import LxmertModel as TheirModel

from lxmert_dist.config.sections import ModelConfig
from lxmert_dist.interop.hugging_face import config_of
from lxmert_dist.interop.names import to_ours
from lxmert_dist.interop.reference import reference_inputs
from lxmert_dist.model import AttentionMaps, LxmertModel, read_attention
from lxmert_dist.schema import DataSpec, ModelInputs
from lxmert_dist.tasks.weights import Description
from sizes import MODEL, PUBLISHED, SPEC
from tasks_batch import pretraining_batch

TOLERANCE = 1e-5
"""Worst measured (float32, torch 2.15, CPU): 0 tiny, 4.1e-6 at 9/5/5."""
KINDS = {
    "language": "TT",
    "vision": "OO",
    "word_to_region": "TO",
    "region_to_word": "OT",
    "cross_language": "TT",
    "cross_vision": "OO",
}


def pair_up(spec: DataSpec, config: ModelConfig) -> tuple[LxmertModel, TheirModel]:
    """Both models with the same random weights, large enough for uneven attention."""
    torch.manual_seed(5)
    description = Description(kind="backbone", model=config, sizes=asdict(spec))
    theirs = TheirModel(config_of(description, frozenset())).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
            else:
                parameter.normal_(0.0, 1.5 * config.hidden_size**-0.5)
    ours = LxmertModel(config, spec)
    released = {f"bert.{name}": tensor for name, tensor in theirs.state_dict().items()}
    names = to_ours(released, config)
    ours.load_state_dict({name.removeprefix("model."): t for name, t in names.items()})
    return ours, theirs


def dense(module: nn.Module, asking: Tensor, asked: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(D)) of padded states, written out; ``module`` has the projections."""
    heads = module.num_attention_heads

    def split(states: Tensor) -> Tensor:
        return states.unflatten(-1, (heads, -1)).transpose(1, 2)

    query, key = split(module.query(asking)), split(module.key(asked))
    scores = torch.einsum("bhid,bhjd->bhij", query, key) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = torch.where(mask[:, None, None, :], scores, -torch.inf)
    return scores.softmax(-1)


def their_maps(theirs: TheirModel, inputs: ModelInputs) -> dict[str, list[Tensor]]:
    """The three that it returns, and the others from the states that its modules are given."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append((module, args[0], args[1]))

    parts = ("visual_attention", "lang_self_att", "visn_self_att")
    owners = [getattr(layer, part) for layer in theirs.encoder.x_layers for part in parts]
    modules = [getattr(owner, "att", None) or owner.self for owner in owners]
    hooks = [module.register_forward_pre_hook(keep) for module in modules]
    with torch.no_grad():
        out = theirs(**reference_inputs(inputs), output_attentions=True)
        words, objects = inputs.attention_mask, inputs.object_mask
        found = {
            "language": list(out.language_attentions),
            "vision": list(out.vision_attentions),
            "word_to_region": list(out.cross_encoder_attentions),
            "region_to_word": [dense(*call, words) for call in seen[1::4]],
            "cross_language": [dense(*call, words) for call in seen[2::4]],
            "cross_vision": [dense(*call, objects) for call in seen[3::4]],
        }
        again = [dense(*call, objects) for call in seen[0::4]]
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(again, found["word_to_region"], rtol=0, atol=1e-6)
    return found


@pytest.mark.parity
@pytest.mark.parametrize("visual_mask", [False, True])
@pytest.mark.parametrize("size", ["tiny", pytest.param("9/5/5", marks=pytest.mark.slow)])
def test_the_same_as_transformers(size: str, visual_mask: bool) -> None:
    spec, config = (SPEC, MODEL) if size == "tiny" else (PUBLISHED, ModelConfig())
    ours, theirs = pair_up(spec, config)
    inputs = pretraining_batch(spec, visual_mask=visual_mask).inputs
    expected = their_maps(theirs, inputs)
    _, maps = read_attention(ours, inputs)
    real = {"T": maps.words, "O": maps.objects}
    worst = 0.0
    for kind, (asking, _) in KINDS.items():
        mine = getattr(maps, kind)
        assert len(mine) == len(expected[kind]) > 0
        wanted = torch.stack(expected[kind]) * real[asking][:, None, :, None]
        uneven = float(wanted.max()) - 1 / wanted.shape[-1]
        # Through ten random layers and more, the objects of an image grow alike.
        assert uneven > 50 * TOLERANCE or (size, kind) == ("9/5/5", "cross_vision")
        worst = max(worst, float((mine - wanted).abs().max()))
    assert worst < TOLERANCE


@pytest.fixture(scope="module")
def model() -> LxmertModel:
    torch.manual_seed(0)
    dropping = {"hidden_dropout": 0.5, "attention_dropout": 0.5, "initializer_range": 0.3}
    return LxmertModel(MODEL.model_copy(update=dropping), SPEC)


@pytest.mark.parametrize("visual_mask", [False, True])
def test_rows_sum_to_one_and_padding_is_empty(model: LxmertModel, visual_mask: bool) -> None:
    inputs = pretraining_batch(SPEC, visual_mask=visual_mask).inputs
    _, maps = read_attention(model, inputs)
    real = {"T": maps.words, "O": maps.objects}
    assert maps.objects.all() != visual_mask
    for kind, (asking, asked) in KINDS.items():
        weights = getattr(maps, kind)
        rows = real[asking][:, None].expand(weights.shape[1:4])
        torch.testing.assert_close(weights.sum(-1), rows.float().expand(len(weights), -1, -1, -1))
        hidden = ~real[asked][:, None, None].expand(weights.shape[1:])
        assert not weights[:, hidden].any()


def test_the_model_is_left_as_it_was(model: LxmertModel) -> None:
    inputs = pretraining_batch(SPEC).inputs
    model.eval()
    with torch.no_grad():
        plain = model(inputs)
    model.train()
    model.pooler.eval()
    encoded, maps = read_attention(model, inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, encoded, strict=True)), "dropout is off"
    assert model.training
    assert not model.pooler.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(getattr(maps, kind).requires_grad for kind in KINDS)


def test_hooks_go_when_the_model_fails(model: LxmertModel) -> None:
    inputs = pretraining_batch(SPEC).inputs
    with pytest.raises(IndexError):
        read_attention(model, replace(inputs, token_ids=inputs.token_ids + SPEC.vocab_size))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_pairs_that_share_an_image(model: LxmertModel) -> None:
    inputs = pretraining_batch(SPEC, visual_mask=True).inputs
    shared = torch.arange(len(inputs.image_index)) // 3
    images = slice(int(shared[-1]) + 1)
    assert inputs.object_mask is not None
    few = replace(
        inputs,
        image_index=shared,
        roi_features=inputs.roi_features[images],
        boxes=inputs.boxes[images],
        object_mask=inputs.object_mask[images],
    )
    many = replace(
        inputs,
        roi_features=few.roi_features[shared],
        boxes=few.boxes[shared],
        object_mask=inputs.object_mask[shared],
    )
    _, found = read_attention(model, few)
    _, expected = read_attention(model, many)
    torch.testing.assert_close(asdict(found), asdict(expected))


def test_one_pair_without_its_padding(model: LxmertModel) -> None:
    inputs = pretraining_batch(SPEC, visual_mask=True).inputs
    _, maps = read_attention(model, inputs)
    pair = 4
    one: AttentionMaps = maps.of_pair(pair)
    words, objects = int(maps.words[pair].sum()), int(maps.objects[pair].sum())
    assert one.word_to_region.shape == (2, 1, 4, words, objects)
    assert words < maps.words.shape[1]
    assert objects < maps.objects.shape[1]
    expected = maps.region_to_word[:, pair, :, :objects, :words]
    assert torch.equal(one.region_to_word[:, 0], expected)
    torch.testing.assert_close(one.cross_vision.sum(-1), torch.ones(2, 1, 4, objects))
