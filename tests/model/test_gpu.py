"""The same model on a GPU, where attention is fused and the products are cuBLAS'."""

import pytest
import torch

from lxmert_dist.config.sections import ObjectivesConfig
from lxmert_dist.tasks import PretrainingTask
from sizes import MODEL, SPEC
from tasks_batch import pretraining_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_losses_and_gradients_as_on_the_cpu(dtype: torch.dtype, tolerance: float) -> None:
    """Not yet measured: no GPU was at hand."""
    torch.manual_seed(0)
    task = PretrainingTask(MODEL, ObjectivesConfig(), SPEC)
    batch = pretraining_batch(SPEC)
    seen = []
    for device in ("cpu", "cuda"):
        moved = task.to(device, dtype if device == "cuda" else torch.float32)
        moved.zero_grad()
        losses = moved(batch.to(torch.device(device))).losses
        torch.stack(list(losses.values())).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in moved.parameters()]).float().cpu()
        seen.append((torch.stack(list(losses.values())).float().cpu(), gradient))
    for mine, theirs in zip(*seen, strict=True):
        scale = float(mine.detach().abs().max())
        torch.testing.assert_close(theirs, mine, rtol=0, atol=tolerance * scale)
