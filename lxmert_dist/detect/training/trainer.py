"""A detector's training, step by step; who calls it decides when to validate, save and stop."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lxmert_dist import keyed
from lxmert_dist.config.detector_training import TrainableDetectorConfig
from lxmert_dist.detect.faster_rcnn import FasterRcnn
from lxmert_dist.detect.storage import save_detector
from lxmert_dist.detect.training.batches import load_example, stack_padded
from lxmert_dist.detect.training.losses import Things, detection_losses
from lxmert_dist.detect.training.norms import frozen, let_norms_learn
from lxmert_dist.errors import CheckpointError, NonFiniteLossError
from lxmert_dist.schema import LabelledImage

_NETWORK, _OPTIMIZER = "network/", "optimizer/"


class DetectorTrainer:
    """A network, its optimiser, and how many steps they took.

    Every draw follows from the seed and the step, so that a training that goes on is the training
    that never stopped, bit for bit on one thread.

    Attributes:
        step: optimiser steps so far.
        tracker_run_id: what continues the same run in the tracker, if that needs an id.
    """

    def __init__(self, config: TrainableDetectorConfig, images: Sequence[LabelledImage]) -> None:
        """Begin with random weights.

        Args:
            config: of the detector and of its training.
            images: to learn from, at least one.
        """
        self.step = 0
        self.tracker_run_id: str | None = None
        self._config, self._images = config, images
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            self._network = FasterRcnn(config.detector)
        let_norms_learn(self._network)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), weight_decay=config.training.weight_decay
        )

    def take_step(self) -> dict[str, float]:
        """Learn from the next batch.

        Returns:
            The losses, their weighted sum as ``loss``, ``gradient_norm`` before it was clipped, and
            ``learning_rate``.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite; the weights are as before.
        """
        training = self._config.training
        self._network.train()
        pixels, things = zip(*self._batch(), strict=True)
        with torch.random.fork_rng(devices=[]):
            # torchvision's samplers draw from the global generator.
            drawn = keyed.bits(training.seed, 0, self.step, keyed.Purpose.REGION_SAMPLE)
            torch.manual_seed(int(drawn) >> 1)
            losses = detection_losses(self._network, self._config, stack_padded(pixels), things)
        weights = {"attribute": training.attribute_weight}
        total = torch.stack([weights.get(n, 1.0) * loss for n, loss in losses.items()]).sum()
        figures = {name: float(loss.detach()) for name, loss in losses.items()}
        figures["loss"] = float(total.detach())
        if not math.isfinite(figures["loss"]):
            said = ", ".join(f"{name} {value:g}" for name, value in figures.items())
            raise NonFiniteLossError(
                f"step {self.step}: {said}; lower training.learning_rate, or lengthen warmup_steps"
            )
        self._optimizer.zero_grad()
        torch.autograd.backward(total)
        limit = training.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), limit)
        rate = training.learning_rate * _share_of_rate(
            self.step, training.warmup_steps, training.steps
        )
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self.step += 1
        return figures | {"gradient_norm": float(norm), "learning_rate": rate}

    def network(self) -> FasterRcnn:
        """The detector as it is now, with fixed norms, in evaluation mode; a copy."""
        return frozen(self._network, self._config.detector)

    def save_detector(self, directory: Path) -> None:
        """Write what ``load_detector`` opens."""
        training = self._config.training
        save_detector(
            directory,
            self._config.detector,
            self.network(),
            object_classes=training.object_names,
            attribute_classes=training.attribute_names,
        )

    def save_state(self, file: Path) -> None:
        """Write what :meth:`resume` needs; a file that is there stays whole until this one is."""
        named = dict(self._network.named_parameters())
        tensors = {_NETWORK + name: t for name, t in self._network.state_dict().items()}
        for name, parameter in named.items():
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"{_OPTIMIZER}{key}/{name}"] = value
        file.parent.mkdir(parents=True, exist_ok=True)
        about = {"step": str(self.step), "settings": self._fingerprint()}
        if self.tracker_run_id:
            about["tracker_run_id"] = self.tracker_run_id
        temporary = file.with_suffix(".tmp")
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, about)
        temporary.replace(file)

    def resume(self, file: Path) -> None:
        """Go on from what :meth:`save_state` wrote.

        Raises:
            CheckpointError: it is damaged, or of other settings or images.
        """
        try:
            with safe_open(file, framework="pt") as opened:
                about = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{file}: cannot be read ({error}); delete it to begin again"
            ) from error
        if about.get("settings") != self._fingerprint():
            raise CheckpointError(
                f"{file} is of other settings or images; delete it to begin again, or choose "
                "another --out"
            )
        self._network.load_state_dict(_under(tensors, _NETWORK))
        names = [name for name, _ in self._network.named_parameters()]
        keys = sorted({n.split("/")[1] for n in tensors if n.startswith(_OPTIMIZER)})
        state = {
            place: {key: tensors[f"{_OPTIMIZER}{key}/{name}"] for key in keys}
            for place, name in enumerate(names)
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step = int(about["step"])
        self.tracker_run_id = about.get("tracker_run_id")

    def _batch(self) -> list[tuple[Tensor, Things]]:
        """The step's images; every one comes once before any comes again."""
        training, number = self._config.training, len(self._images)
        places = np.arange(
            self.step * training.batch_images, (self.step + 1) * training.batch_images
        )
        batch = []
        for place in places:
            epoch, rank = divmod(int(place), number)
            which = int(self._order(epoch)[rank])
            chance = keyed.uniform(training.seed, epoch, which, keyed.Purpose.FLIP)
            batch.append(
                load_example(
                    self._images[which], self._config.input, flipped=bool(chance < training.flip)
                )
            )
        return batch

    def _order(self, epoch: int) -> np.ndarray:
        seed = self._config.training.seed
        return keyed.permutation(len(self._images), seed, epoch, keyed.Purpose.IMAGE_ORDER)

    def _fingerprint(self) -> str:
        """Settings that a training may not change on its way, and the images, hashed."""
        loose = {"log_every", "validate_every", "validation_images"}
        settings = self._config.model_dump(mode="json", exclude={"tracking"})
        settings["training"] = {k: v for k, v in settings["training"].items() if k not in loose}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for image in self._images:
            digest.update(image.image_id.encode())
            digest.update(image.boxes.tobytes())
        return digest.hexdigest()[:16]


def _share_of_rate(step: int, warmup: int, steps: int) -> float:
    """Of the highest rate: linear up to 1, then linear to 0 at the end."""
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(steps - warmup, 1)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
