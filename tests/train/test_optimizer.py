"""BertAdam against its formula in float64, what is decayed, and the schedule at its corners."""

import math

import pytest
import torch
from torch import Tensor, nn

from lxmert_dist.config import ModelConfig, ObjectivesConfig, OptimizerConfig
from lxmert_dist.schema import DataSpec
from lxmert_dist.tasks import PretrainingTask
from lxmert_dist.train.optimizer import BertAdam, build_optimizer, learning_rate

CONFIG = OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.1)
STEPS = 300


def follow(config: OptimizerConfig, start: Tensor, gradients: list[Tensor]) -> Tensor:
    """The released update rule (spec, section 4), written out in float64."""
    p, m, v = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
    for step, gradient in enumerate(gradients):
        x = step / len(gradients)
        w = config.warmup_fraction
        f = x / w if x < w else max((1 - x) / (1 - w), 0)
        m = config.beta1 * m + (1 - config.beta1) * gradient
        v = config.beta2 * v + (1 - config.beta2) * gradient**2
        u = m / (v.sqrt() + config.eps) + config.weight_decay * p
        p = p - config.learning_rate * f * u
    return p


def move(
    config: OptimizerConfig, parameters: list[Tensor], gradients: list[list[Tensor]]
) -> torch.optim.Optimizer:
    """Update parameters as the loop does; ``gradients`` by step, then by parameter."""
    optimizer = build_optimizer(config, parameters)
    for step, parts in enumerate(gradients):
        for parameter, gradient in zip(parameters, parts, strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, len(gradients))
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("change", "scale"),
    [
        ({}, 1.0),
        ({}, 1e-7),  # below eps, which then rules the update
        ({"weight_decay": 0.5}, 1.0),
        ({"beta1": 0.0, "beta2": 0.99, "eps": 1e-8}, 1.0),
    ],
)
def test_bert_adam_follows_its_formula(change: dict[str, float], scale: float) -> None:
    torch.manual_seed(0)
    config = CONFIG.model_copy(update=change)
    start = torch.randn(37, 5)
    gradients = [scale * torch.randn(37, 5, dtype=torch.float64) for _ in range(STEPS)]
    parameter = nn.Parameter(start.clone())
    move(config, [parameter], [[g.float()] for g in gradients])
    expected = follow(config, start, gradients)
    assert (expected - start).abs().max() > 0.01
    # float32 against float64 over 300 steps: 5e-6 was the worst that was seen.
    assert (parameter.double() - expected).abs().max() < 1e-5


def test_the_first_update_moves_the_moments_only() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    gradient = torch.tensor([0.5, 3.0])
    optimizer = move(CONFIG, [parameter], [[gradient]])
    assert parameter.tolist() == [1.0, -2.0]
    state = optimizer.state[parameter]
    torch.testing.assert_close(state["exp_avg"], 0.1 * gradient)
    torch.testing.assert_close(state["exp_avg_sq"], 0.001 * gradient**2)


def test_no_bias_is_corrected() -> None:
    config = OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0, weight_decay=0.0)
    for name, expected in (("bert_adam", 0.1 / math.sqrt(0.001)), ("adamw", 1.0)):
        parameter = nn.Parameter(torch.zeros(3))
        move(config.model_copy(update={"name": name}), [parameter], [[torch.full((3,), 0.7)]])
        torch.testing.assert_close(parameter.detach(), torch.full((3,), -1e-3 * expected))


def test_parts_of_a_flat_buffer_move_as_tensors_of_their_own() -> None:
    """As ZeRO cuts them: views into one buffer, at any offset."""
    torch.manual_seed(0)
    sizes = (1, 17, 64, 5, 33)
    buffer = torch.randn(sum(sizes))
    whole = nn.Parameter(buffer.clone())
    views = [nn.Parameter(part) for part in buffer.split(sizes)]
    gradients = [torch.randn(len(buffer)) for _ in range(20)]
    move(CONFIG, [whole], [[g] for g in gradients])
    move(CONFIG, views, [list(g.split(sizes)) for g in gradients])
    # The same but for the order in which a vector unit rounds: 3e-8 was the worst.
    torch.testing.assert_close(buffer, whole.detach(), rtol=0, atol=1e-6)


def test_the_layout_of_a_gradient_does_not_matter_and_a_parameter_must_be_contiguous() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(8, 5), torch.randn(8, 5)
    plain, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    move(CONFIG, [plain], [[gradient]] * 3)
    move(CONFIG, [other], [[gradient.t().contiguous().t()]] * 3)
    assert torch.equal(plain, other)
    with pytest.raises(ValueError, match="contiguous"):
        BertAdam([start.t()], 0.0, (0.9, 0.999), 1e-6, 0.0)


def test_a_parameter_without_gradient_stays() -> None:
    still, moving = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = build_optimizer(CONFIG, [still, moving])
    moving.grad = torch.ones(2)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert still.tolist() == [1.0, 1.0]
    assert moving[0] < 1


@pytest.mark.parametrize("name", ["bert_adam", "adamw"])
@pytest.mark.parametrize(("exclude", "vector"), [("none", 0.95), ("bias_and_norm", 1.0)])
def test_what_is_decayed(name: str, exclude: str, vector: float) -> None:
    """A gradient of zero, not of None: only the decay is left, as for a row that never learns."""
    config = CONFIG.model_copy(
        update={"name": name, "decay_exclude": exclude, "weight_decay": 0.5, "warmup_fraction": 0.0}
    )
    bias, matrix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 3))
    optimizer = build_optimizer(config, [bias, matrix])
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    bias.grad, matrix.grad = torch.zeros(3), torch.zeros(3, 3)
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.full((3,), vector))
    torch.testing.assert_close(matrix.detach(), torch.full((3, 3), 0.95))


def test_the_vectors_of_the_model_are_its_biases_and_norms() -> None:
    spec = DataSpec(30, 0, 1, 2, 3, 4, 16, 9, 6, 7)
    config = ModelConfig(hidden_size=8, num_heads=2, intermediate_size=16)
    task = PretrainingTask(config, ObjectivesConfig(), spec)
    for name, parameter in task.named_parameters():
        assert (parameter.ndim == 1) == (name.endswith("bias") or "norm" in name), name
    exclude = CONFIG.model_copy(update={"decay_exclude": "bias_and_norm"})
    groups = build_optimizer(exclude, task.parameters()).param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(task.parameters()))


@pytest.mark.parametrize("name", ["bert_adam", "adamw"])
def test_nothing_moves_before_the_first_rate_is_set(name: str) -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(CONFIG.model_copy(update={"name": name}), [parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert parameter.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (5, 0.5e-2), (10, 1e-2), (55, 0.5e-2), (99, 1e-2 / 90), (100, 0.0)],
)
def test_the_schedule_warms_up_and_decays(step: int, rate: float) -> None:
    assert learning_rate(CONFIG, step, 100) == pytest.approx(rate)


def test_a_schedule_without_warm_up_starts_at_the_peak() -> None:
    config = OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.0)
    assert learning_rate(config, 0, 10) == 1e-2
