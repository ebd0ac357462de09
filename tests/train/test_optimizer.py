"""BertAdam against its formula in float64, and the schedule at its corners."""

import pytest
import torch

from lxmert_dist.config import OptimizerConfig
from lxmert_dist.train.optimizer import build_optimizer, learning_rate

CONFIG = OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.1)


def test_bert_adam_follows_its_formula():
    torch.manual_seed(0)
    start = torch.randn(5, 3, dtype=torch.float64)
    p, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    parameter = torch.nn.Parameter(start.float())
    optimizer = build_optimizer(CONFIG, [parameter])
    for step in range(20):
        gradient = torch.randn(5, 3, dtype=torch.float64)
        rate = learning_rate(CONFIG, step, 20)
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        p = p - rate * (m / (v.sqrt() + 1e-6) + 0.01 * p)
        parameter.grad = gradient.float()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    # float32 against float64 over 20 steps: 2e-6 was the worst that was seen.
    assert torch.allclose(parameter.double(), p, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_gradient_stays():
    still, moving = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer(CONFIG, [still, moving])
    moving.grad = torch.ones(2)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert still.tolist() == [1.0, 1.0]
    assert moving[0] < 1


@pytest.mark.parametrize("name", ["bert_adam", "adamw"])
def test_nothing_moves_before_the_first_rate_is_set(name):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(CONFIG.model_copy(update={"name": name}), [parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert parameter.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (5, 0.5e-2), (10, 1e-2), (55, 0.5e-2), (99, 1e-2 / 90), (100, 0.0)],
)
def test_the_schedule_warms_up_and_decays(step, rate):
    assert learning_rate(CONFIG, step, 100) == pytest.approx(rate)


def test_a_schedule_without_warm_up_starts_at_the_peak():
    config = OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.0)
    assert learning_rate(config, 0, 10) == 1e-2
