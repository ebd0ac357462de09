"""The fixed input of the self-check, and how two models' outputs on it are compared.

Shapes: B pairs, T tokens, W word pieces, O objects, F feature width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lxmert_dist.errors import CheckpointError
from lxmert_dist.keyed import Purpose, integers, uniform
from lxmert_dist.schema import ModelInputs

LIMIT = 1e-4
"""Largest difference that a conversion may show; 1e-6 is the usual one in float32."""

Outputs = Mapping[str, Tensor]
"""By what they say; of word pieces (W, …), objects (B * O, …) or pairs (B, …)."""

UNEXPLAINED = "report it, and where the weights are from"
"""What to do where a conversion cannot be right, whatever the user gave."""

_LENGTHS, _OBJECTS = (8, 3, 5, 8), 6
_SEED = 9595


@dataclass(frozen=True)
class Probe:
    """Sentences of several lengths, padded, and their images; always the same for equal sizes."""

    token_ids: Int64[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    roi_features: Float[Tensor, "B O F"]
    boxes: Float[Tensor, "B O 4"]


def make_probe(vocab_size: int, feature_dim: int, max_positions: int) -> Probe:
    """Random words, features from 0 to 4 as detectors give them, and boxes in [0, 1]."""
    lengths = np.minimum(_LENGTHS, max_positions)
    pairs, tokens = len(lengths), int(lengths.max())
    words = np.arange(pairs * tokens).reshape(pairs, tokens)
    real = np.arange(tokens) < lengths[:, None]
    token_ids = integers(_SEED, 0, words, Purpose.TOKEN_RANDOM, below=vocab_size) * real
    features = np.arange(pairs * _OBJECTS * feature_dim).reshape(pairs, _OBJECTS, feature_dim)
    corners = np.arange(pairs * _OBJECTS * 4).reshape(pairs, _OBJECTS, 2, 2)
    drawn = np.sort(uniform(_SEED, 0, corners, Purpose.DONOR_OBJECT), axis=2)
    return Probe(
        torch.from_numpy(token_ids),
        torch.from_numpy(real),
        torch.from_numpy(4 * uniform(_SEED, 0, features, Purpose.DONOR_IMAGE) ** 4).float(),
        torch.from_numpy(drawn.reshape(pairs, _OBJECTS, 4)).float(),
    )


def our_inputs(probe: Probe) -> ModelInputs:
    """The probe as our models read it."""
    return ModelInputs.pack(probe.token_ids, probe.mask, probe.roi_features, probe.boxes)


def differences(expected: Outputs, found: Outputs) -> dict[str, float]:
    """By output, the largest difference relative to the largest expected value.

    Raises:
        CheckpointError: one side says something that the other does not.
    """
    if expected.keys() != found.keys():
        odd = sorted(expected.keys() ^ found.keys())
        raise CheckpointError(
            f"only one of the two models has the output {', '.join(odd)}; {UNEXPLAINED}"
        )
    return {
        name: float((found[name] - value).abs().max() / value.abs().max().clamp_min(1e-12))
        for name, value in expected.items()
    }


def largest(found: Mapping[str, float]) -> tuple[str, float]:
    """The output that differs most, and by how much; what is not a number is the most."""
    return max(found.items(), key=lambda item: (math.isnan(item[1]), item[1]))
