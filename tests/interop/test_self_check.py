"""The self-check sees what it is there for, and what it compares is what users will compute."""

from dataclasses import replace

import pytest
import torch
from transformers import LxmertForPreTraining

from lxmert_dist.errors import CheckpointError
from lxmert_dist.interop import names, ours, probe
from lxmert_dist.interop.source import Guess, of_path, of_run
from lxmert_dist.tasks.weights import open_export
from tiny_weights import released, theirs, worst


@pytest.fixture
def source(pretraining, save):
    return of_path(save(released(pretraining)), Guess(num_heads=4))


def exchange(source, one, other):
    """The source with two of our tensors in each other's place, as by a mistake in the table."""
    tensors = dict(source.weights.tensors)
    tensors[one], tensors[other] = tensors[other], tensors[one]
    return replace(source, weights=replace(source.weights, tensors=tensors))


@pytest.mark.parametrize("to", ["huggingface", "lxmert", "lxmert_dist"])
def test_an_exchange_is_seen_and_nothing_is_left(source, turn, tmp_path, to):
    stem = "model.cross_modality_encoder.layers.1"
    wrong = exchange(
        source,
        f"{stem}.language.feed_forward.contract.bias",
        f"{stem}.language.attention.output.bias",
    )
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"differ from the source by .*nothing was written"):
        turn(wrong, to)
    assert sorted(tmp_path.iterdir()) == before


def test_every_parameter_matters_to_the_probe(source):
    """Whichever of our parameters is disturbed, some output moves by more than the limit.

    Not seen: rows of the tables that the probe does not read, and keys' biases, which a softmax
    takes out.
    """
    weights = source.weights
    model = weights.description.model
    fixed = probe.make_probe(weights.description.sizes["vocab_size"], 12, model.max_positions)
    expected = ours.outputs(weights, fixed)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in weights.tensors.items():
        noise = 0.3 * torch.randn(tensor.shape, generator=generator)
        found = ours.outputs(
            replace(weights, tensors={**weights.tensors, name: tensor + noise}), fixed
        )
        moved = max(probe.differences(expected, found).values())
        assert moved > 10 * probe.LIMIT, name


def test_heads_are_written_down(pretraining, tmp_path, turn):
    """What no shape shows: 2 heads instead of 4 are another function of the same tensors."""
    pretraining.save_pretrained(tmp_path / "source")
    right = of_path(tmp_path / "source", Guess())
    assert right.weights.description.model.num_heads == 4
    changed = right.weights.description.model.model_copy(update={"num_heads": 2})
    description = right.weights.description.model_copy(update={"model": changed})
    run = of_run(replace(right.weights, description=description))
    out, _ = turn(run, "huggingface")
    assert LxmertForPreTraining.from_pretrained(out).config.num_attention_heads == 2


def test_another_eps_is_written_down_and_told(source, turn):
    """transformers has 1e-12 built in: judged with the right one, told what the other makes."""
    description = source.weights.description
    changed = description.model.model_copy(update={"layer_norm_eps": 0.01})
    description = description.model_copy(update={"model": changed})
    weights = replace(source.weights, description=description)
    for to in ("huggingface", "lxmert"):
        out, conversion = turn(of_run(weights), to)
        assert worst(conversion) < 5e-6  # measured: 0
        assert probe.largest(conversion.as_opened)[1] > 1e-3
        assert "trained with layer_norm_eps=0.01; opened with" in "\n".join(conversion.lines())
        assert "layer_norm_eps=0.01" in (out / "README.md").read_text()
        if to == "huggingface":
            assert "module.eps = 0.01" in (out / "README.md").read_text()
            assert of_path(out, Guess()).weights.description.model.layer_norm_eps == 0.01
    _, conversion = turn(of_run(weights), "lxmert_dist")
    assert conversion.as_opened is None


def test_a_model_without_token_types_keeps_its_function(source, turn):
    description = source.weights.description
    changed = description.model.model_copy(update={"token_type": False})
    description = description.model_copy(update={"model": changed})
    weights = replace(source.weights, description=description)
    out, conversion = turn(of_run(weights), "huggingface")
    assert worst(conversion) < probe.LIMIT
    table = LxmertForPreTraining.from_pretrained(out).lxmert.embeddings.token_type_embeddings
    assert not table.weight.any()


def test_the_table_covers_transformers(pretraining, source):
    table = names.names(source.weights.description.model)
    parts = [part for parts in table.values() for part in parts if "pair_head" not in part]
    theirs = [name.replace("lxmert.", "bert.", 1) for name, _ in pretraining.named_parameters()]
    assert sorted(parts) == sorted(theirs)


def test_an_export_of_ours_is_vouched_for(source, turn):
    out, _ = turn(source, "lxmert_dist")
    weights = out / "weights.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged.*convert again"):
        open_export(str(out))
    (out / "manifest.json").unlink()
    assert open_export(str(out)) is None


def test_the_probe_is_always_the_same():
    one, other = (probe.make_probe(65, 12, 20) for _ in range(2))
    assert torch.equal(one.token_ids, other.token_ids)
    assert torch.equal(one.roi_features, other.roi_features)
    assert (one.boxes[..., 2:] >= one.boxes[..., :2]).all()
    assert one.mask.sum(1).unique().numel() > 2, "sentences of several lengths"
    assert probe.make_probe(65, 12, 4).token_ids.shape[1] == 4


def test_outputs_that_one_side_lacks_are_an_error():
    with pytest.raises(CheckpointError, match="only one of the two models has the output b"):
        probe.differences({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)})


def test_a_difference_is_relative_to_the_largest_value():
    expected, found = torch.tensor([4.0, 1.0]), torch.tensor([4.0, 1.5])
    assert probe.differences({"a": expected}, {"a": found}) == {"a": 0.125}
    nan = {"a": torch.tensor([float("nan")])}
    assert not probe.differences({"a": torch.ones(1)}, nan)["a"] <= probe.LIMIT


@pytest.mark.parametrize("heads", [2, 8])
def test_a_wider_model_stays_within_the_tolerance(save, turn, heads):
    model = theirs(LxmertForPreTraining, hidden_size=128, intermediate_size=512)
    source = of_path(save(released(model)), Guess(heads))
    for to in ("huggingface", "lxmert_dist"):
        # Worst measured: 9.6e-6 to ours, whose products are oneDNN's and not MKL's; else 0.
        assert worst(turn(source, to)[1]) < 5e-5


def test_assumed_heads_are_told(save, turn):
    file = save(released(theirs(LxmertForPreTraining, hidden_size=128, num_attention_heads=2)))
    for guess, told in ((Guess(), True), (Guess(num_heads=2), False)):
        _, conversion = turn(of_path(file, guess), "lxmert")
        assert "2 heads" in "\n".join(conversion.lines())
        assert ("2 heads (assumed" in "\n".join(conversion.lines())) == told
