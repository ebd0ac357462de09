"""Our pretraining task against ``transformers``' LXMERT: outputs, losses and gradients.

Both get the same weights, all of them random (biases and norms too), and the same batch. The
tolerances are relative to the largest value of each tensor.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LxmertConfig, LxmertForPreTraining

from lxmert_dist.config.sections import ModelConfig, ObjectivesConfig
from lxmert_dist.schema import IGNORED, DataSpec, MicroBatch, PairBatch, PretrainTargets
from lxmert_dist.store.sentences import SentenceTable
from lxmert_dist.tasks.pretraining import PretrainingTask, pretraining_collate

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
"""Worst measured: outputs 7e-7, losses 2e-7, gradients 9e-7 (float32, torch 2.15, CPU)."""


def block_names(ours: str, attention: str, output: str) -> Iterator[tuple[str, list[str]]]:
    """Names of an attention block; ``output`` is the stem of its output block."""
    for kind in ("weight", "bias"):
        yield (
            f"{ours}.query_key_value.{kind}",
            [f"{attention}.{part}.{kind}" for part in ("query", "key", "value")],
        )
        yield f"{ours}.output.{kind}", [f"{output}.dense.{kind}"]
        yield f"{ours}.layer_norm.{kind}", [f"{output}.LayerNorm.{kind}"]


def layer_names(
    ours: str, attention: str, inter: str, output: str
) -> Iterator[tuple[str, list[str]]]:
    """Names of a self-attention block and the feed-forward block behind it."""
    yield from block_names(f"{ours}.attention", f"{attention}.self", f"{attention}.output")
    for kind in ("weight", "bias"):
        yield f"{ours}.feed_forward.expand.{kind}", [f"{inter}.dense.{kind}"]
        yield f"{ours}.feed_forward.contract.{kind}", [f"{output}.dense.{kind}"]
        yield f"{ours}.feed_forward.layer_norm.{kind}", [f"{output}.LayerNorm.{kind}"]


def names(config: ModelConfig) -> dict[str, list[str]]:
    """Our parameter name -> the names whose tensors, concatenated, it equals."""
    text, objects = "model.text_embedding", "model.visual_embedding"
    theirs = "lxmert.encoder"
    pairs: list[tuple[str, list[str]]] = [("masked_lm_head.bias", ["cls.predictions.bias"])]
    for table in ("word", "position", "token_type"):
        theirs_table = f"lxmert.embeddings.{table}_embeddings.weight"
        pairs.append((f"{text}.{table}.weight", [theirs_table]))
    modules = {
        f"{text}.layer_norm": "lxmert.embeddings.LayerNorm",
        f"{objects}.feature": f"{theirs}.visn_fc.visn_fc",
        f"{objects}.feature_norm": f"{theirs}.visn_fc.visn_layer_norm",
        f"{objects}.box": f"{theirs}.visn_fc.box_fc",
        f"{objects}.box_norm": f"{theirs}.visn_fc.box_layer_norm",
        "model.pooler.dense": "lxmert.pooler.dense",
        "masked_lm_head.transform.dense": "cls.predictions.transform.dense",
        "masked_lm_head.transform.layer_norm": "cls.predictions.transform.LayerNorm",
        "matching_head.decoder": "cls.seq_relationship",
        "visual_head.transform.dense": "obj_predict_head.transform.dense",
        "visual_head.transform.layer_norm": "obj_predict_head.transform.LayerNorm",
        "visual_head.object_label": "obj_predict_head.decoder_dict.obj",
        "visual_head.attribute_label": "obj_predict_head.decoder_dict.attr",
        "visual_head.roi_feature": "obj_predict_head.decoder_dict.feat",
        "answer_head.transform.dense": "answer_head.logit_fc.0",
        "answer_head.transform.layer_norm": "answer_head.logit_fc.2",
        "answer_head.decoder": "answer_head.logit_fc.3",
    }
    pairs += [
        (f"{our_module}.{kind}", [f"{their_module}.{kind}"])
        for our_module, their_module in modules.items()
        for kind in ("weight", "bias")
    ]
    stacks = (
        ("language_encoder", "layer", config.num_language_layers),
        ("object_relationship_encoder", "r_layers", config.num_relationship_layers),
    )
    for our_stack, their_stack, depth in stacks:
        for i in range(depth):
            stem = f"{theirs}.{their_stack}.{i}"
            parts = (f"{stem}.attention", f"{stem}.intermediate", f"{stem}.output")
            pairs += layer_names(f"model.{our_stack}.layers.{i}", *parts)
    for i in range(config.num_cross_layers):
        ours, stem = f"model.cross_modality_encoder.layers.{i}", f"{theirs}.x_layers.{i}"
        cross = f"{stem}.visual_attention"
        pairs += block_names(f"{ours}.cross_attention", f"{cross}.att", f"{cross}.output")
        for branch, short in (("language", "lang"), ("vision", "visn")):
            parts = (f"{stem}.{short}_self_att", f"{stem}.{short}_inter", f"{stem}.{short}_output")
            pairs += layer_names(f"{ours}.{branch}", *parts)
    return dict(pairs)


@pytest.fixture
def reference(model_config: ModelConfig, spec: DataSpec) -> LxmertForPreTraining:
    torch.manual_seed(5)
    config = LxmertConfig(
        vocab_size=spec.vocab_size,
        hidden_size=model_config.hidden_size,
        num_attention_heads=model_config.num_heads,
        intermediate_size=model_config.intermediate_size,
        l_layers=model_config.num_language_layers,
        r_layers=model_config.num_relationship_layers,
        x_layers=model_config.num_cross_layers,
        max_position_embeddings=model_config.max_positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        visual_feat_dim=spec.feature_dim,
        num_object_labels=spec.num_object_classes,
        num_attr_labels=spec.num_attribute_classes,
        num_qa_labels=spec.num_answers,
    )
    model = LxmertForPreTraining(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.3 if parameter.ndim == 1 else 0.0, 0.2)
    return model


@pytest.fixture
def task(
    reference: LxmertForPreTraining, model_config: ModelConfig, spec: DataSpec
) -> PretrainingTask:
    task = PretrainingTask(model_config, ObjectivesConfig(), spec)
    theirs = reference.state_dict()
    state = {
        ours: torch.cat([theirs[name] for name in parts])
        for ours, parts in names(model_config).items()
    }
    task.load_state_dict(state, strict=True)
    return task


@pytest.fixture
def batch(
    sentences: SentenceTable, spec: DataSpec, make_batch: Callable[..., PairBatch]
) -> MicroBatch:
    collate = pretraining_collate(sentences, spec, ObjectivesConfig(), seed=1, max_tokens=10)
    batch = collate(make_batch(range(40)))
    lengths = batch.inputs.attention_mask.sum(1)
    assert lengths.unique().numel() > 3, "the batch must be padded to several lengths"
    assert min(batch.counts.values()) > 0, "every loss must have terms"
    return batch


def ask(
    reference: LxmertForPreTraining, batch: MicroBatch, losses: set[str], visual_weight: float
) -> Tensor:
    """Their total of some of the losses."""
    targets = batch.targets
    assert isinstance(targets, PretrainTargets)
    masked = targets.masked_objects
    originals = torch.zeros_like(batch.inputs.roi_features, dtype=torch.float32)
    originals[masked] = targets.roi_features.float()
    objects = {
        "object_label": ("obj", (targets.object_ids, targets.object_scores)),
        "attribute_label": ("attr", (targets.attribute_ids, targets.attribute_scores)),
        "roi_feature": ("feat", (originals, masked.float())),
    }
    wanted = dict(value for name, value in objects.items() if name in losses)
    every = reference.visual_losses
    reference.visual_loss_normalizer = visual_weight
    reference.visual_losses = {key: every[key] for key in wanted}

    def labels(name: str, values: Tensor) -> Tensor | None:
        return values.masked_fill(values == IGNORED, -100) if name in losses else None

    total = reference(
        input_ids=batch.inputs.token_ids,
        attention_mask=batch.inputs.attention_mask.long(),
        visual_feats=batch.inputs.roi_features.float(),
        visual_pos=batch.inputs.boxes,
        labels=labels("masked_lm", targets.masked_lm),
        matched_label=labels("matching", targets.is_matched),
        ans=labels("image_qa", targets.answer_ids),
        obj_labels=wanted or None,
    ).loss
    reference.visual_losses = every
    return total


def means(task: PretrainingTask, batch: MicroBatch) -> dict[str, Tensor]:
    """Our six weighted mean losses."""
    report = task(batch)
    return {
        name: loss / batch.counts[name] * task.loss_weights[name]
        for name, loss in report.losses.items()
    }


def test_outputs(task: PretrainingTask, reference: LxmertForPreTraining, batch: MicroBatch) -> None:
    inputs = batch.inputs
    with torch.no_grad():
        ours = task.model(inputs)
        theirs = reference.lxmert(
            input_ids=inputs.token_ids,
            attention_mask=inputs.attention_mask.long(),
            visual_feats=inputs.roi_features.float(),
            visual_pos=inputs.boxes,
        )
    real = inputs.attention_mask
    for mine, other in (
        (ours.language[real], theirs.language_output[real]),
        (ours.vision, theirs.vision_output),
        (ours.pooled, theirs.pooled_output),
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE * float(other.abs().max()))


@pytest.mark.parametrize("visual_weight", [1 / 0.15, 6.67])
@pytest.mark.parametrize("name", PretrainingTask.loss_names)
def test_each_loss(
    name: str,
    visual_weight: float,
    task: PretrainingTask,
    reference: LxmertForPreTraining,
    batch: MicroBatch,
) -> None:
    task.objectives = ObjectivesConfig(visual_weight=visual_weight)
    with torch.no_grad():
        ours, theirs = means(task, batch)[name], ask(reference, batch, {name}, visual_weight)
    assert float(ours) == pytest.approx(float(theirs), rel=TOLERANCE)
    assert float(theirs) > 0


def test_gradient_of_every_parameter(
    task: PretrainingTask,
    reference: LxmertForPreTraining,
    batch: MicroBatch,
    model_config: ModelConfig,
) -> None:
    sum(means(task, batch).values()).backward()
    ask(reference, batch, set(PretrainingTask.loss_names), 1 / 0.15).backward()
    theirs = dict(reference.named_parameters())
    ours = dict(task.named_parameters())
    mapping = names(model_config)
    assert ours.keys() == mapping.keys()
    assert {part for parts in mapping.values() for part in parts} == theirs.keys()
    never = mapping.pop("model.text_embedding.token_type.weight")[0]
    assert not theirs[never].grad.any()
    assert not ours["model.text_embedding.token_type.weight"].grad.any()
    errors = {}
    for name, parts in mapping.items():
        expected = torch.cat([theirs[part].grad for part in parts])
        assert expected.any(), name
        difference = (ours[name].grad - expected).abs().max() / expected.abs().max()
        errors[name] = float(difference)
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] < TOLERANCE, (worst, errors[worst])


def test_frozen_rows_agree(
    task: PretrainingTask, reference: LxmertForPreTraining, batch: MicroBatch
) -> None:
    sum(means(task, batch).values()).backward()
    text = task.model.text_embedding
    assert not text.position.weight.grad[0].any()
    assert not text.token_type.weight.grad[0].any()
    assert text.word.weight.grad[0].any(), "[PAD] learns through the tied decoder"
    assert np.isfinite(text.word.weight.grad.numpy()).all()
