"""The published size, on the meta device: names, shapes and counts without a byte of weights."""

import torch
from transformers import LxmertConfig, LxmertForPreTraining

from lxmert_dist.config.sections import ModelConfig, ObjectivesConfig
from lxmert_dist.interop import ours
from lxmert_dist.interop.names import to_ours, to_released
from lxmert_dist.interop.sizes import infer_model, infer_sizes
from lxmert_dist.tasks.pretraining import PretrainingTask
from lxmert_dist.tasks.weights import Description, TaskWeights, kind_of


def test_all_473_tensors_and_228_051_752_parameters():
    with torch.device("meta"):
        theirs = LxmertForPreTraining(LxmertConfig())
    released = {
        name.replace("lxmert.", "bert.", 1): tensor for name, tensor in theirs.state_dict().items()
    }
    assert len(released) == 473
    model = infer_model(released, {}, is_bert=False, num_heads=None)
    assert model == ModelConfig(), "9/5/5, 768 wide, 12 heads"
    sizes = infer_sizes(released)
    tensors = to_ours(released, model)
    assert sum(tensor.numel() for tensor in tensors.values()) == 228_051_752

    description = Description(kind=kind_of(tensors), model=model, sizes=sizes)
    assert description.kind == "pretraining"
    ours.check(TaskWeights("here", description, tensors))
    with torch.device("meta"):
        task = PretrainingTask(model, ObjectivesConfig(), description.spec)
    assert {n: t.shape for n, t in task.state_dict().items()} == {
        n: t.shape for n, t in tensors.items()
    }
    back = to_released(tensors, model)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in released.items()}
