"""The four presets of semantics: what each changes of the defaults in ``sections.py``.

``model/README.md`` has the same as a table, with what no setting can show. A mapping of section to
setting to value; a run may set any of them otherwise.
"""

from collections.abc import Mapping
from typing import Any

Overlay = Mapping[str, Mapping[str, Any]]

LXMERT: Overlay = {}
"""The released code: the defaults."""

PAPER: Overlay = {
    "model": {
        "token_type": False,  # equation 1 adds word and position
        "trainable_padding_rows": True,  # no row is said to be frozen
    },
    "objectives": {
        "object_replace_fraction": 1.0,
        "object_random_fraction": 0.0,
        "label_scope": "masked",
        "weigh_labels_by_score": False,
        "feature_loss": "l2",
        "visual_mean_over": "masked",
        "object_label_weight": 1.0,
        "attribute_label_weight": 0.0,  # labels are those of objects
        "roi_feature_weight": 1.0,
        # Image QA belongs to the second half only: image_qa_stages, since the step depends on the
        # data; configs/pretrain/lxmert.toml shows how.
    },
    "optimizer": {
        "name": "adamw",
        "eps": 1e-8,  # Adam as published: bias-corrected, and no decay is mentioned
        "weight_decay": 0.0,
    },
}
"""What Tan and Bansal (2019) say, where the released code does something else."""

HUGGINGFACE: Overlay = {
    "model": {"zero_padding_rows": True},
    "objectives": {
        "object_label_weight": 6.67,
        "attribute_label_weight": 6.67,
        "roi_feature_weight": 6.67,
    },
}
"""``LxmertForPreTraining`` of transformers; it has no training code, so the rest is as released."""

CORRECTED: Overlay = {
    "model": {
        # Every sentence uses position 0 and token type 0; they are no padding. Frozen at random
        # values they only decay.
        "trainable_padding_rows": True,
    },
    "objectives": {
        # The label of a visible object can be read off its feature: an easy task that over-fits
        # (validation losses rise from epoch 3 on), and no cross-modal one.
        "label_scope": "masked",
        # A mean over what is counted: the released factor 1/0.15 makes it one only on average.
        "visual_mean_over": "masked",
        "object_label_weight": 1.0,
        "attribute_label_weight": 1.0,
        "roi_feature_weight": 1.0,
        # As released: SmoothL1, since features are non-negative with a long tail, which squares
        # would make the whole loss; 80/10/10, since no feature is zero in fine-tuning; weights by
        # score, since the detector's labels are guesses; global counts, since a run should not
        # depend on the number of ranks; QA in one stage, since two gain nothing (69.90
        # against 69.83 on VQA, airsplay/lxmert#23).
    },
    "optimizer": {
        # Uncorrected moments make the first updates too large, 6.6 times at step 12, which is
        # (1 - 0.9^t) / sqrt(1 - 0.999^t); only a long warm-up hides that.
        "name": "adamw",
        # Biases and norms have a scale that means something: LayerNorm's weight belongs near 1.
        "decay_exclude": "bias_and_norm",
    },
}
"""What we recommend for a new run."""

PRESETS: Mapping[str, Overlay] = {
    "lxmert": LXMERT,
    "paper": PAPER,
    "huggingface": HUGGINGFACE,
    "corrected": CORRECTED,
}
