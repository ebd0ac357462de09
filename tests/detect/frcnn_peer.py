"""The public PyTorch implementation of the published detector, if it lies on this machine.

``LXMERT_DIST_FRCNN_PEER`` names a directory with ``modeling_frcnn.py`` and ``processing_image.py``
of huggingface/transformers-research-projects (lxmert). It is run beside ours, never copied.
"""

import importlib.util
import os
import sys
import types
import warnings
from pathlib import Path
from types import ModuleType
from types import SimpleNamespace as Namespace

import numpy as np
import pytest
import torch

from lxmert_dist.config.detector import DetectorConfig

VARIABLE = "LXMERT_DIST_FRCNN_PEER"


def peer_module(name: str) -> ModuleType:
    directory = os.environ.get(VARIABLE)
    if not directory:
        pytest.skip(f"{VARIABLE} does not say where {name}.py is")
    spec = importlib.util.spec_from_file_location(f"peer_{name}", Path(directory) / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # It imports downloads and image files from a module beside it, which nothing here uses.
    utils = types.ModuleType("utils")
    utils.__getattr__ = lambda _: None
    before = sys.modules.get("utils")
    sys.modules["utils"] = utils
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["utils"]
        if before is not None:
            sys.modules["utils"] = before
    return module


def peer_settings(config: DetectorConfig) -> Namespace:
    """Its configuration, equal to ours."""
    proposals, regions, selection = config.proposals, config.regions, config.selection
    width = config.resnet.width
    return Namespace(
        MODEL=Namespace(
            DEVICE="cpu",
            MAX_POOL=config.resnet.caffe_max_pool,
            PIXEL_MEAN=list(config.input.mean),
            PIXEL_STD=list(config.input.std),
        ),
        INPUT=Namespace(
            MIN_SIZE_TEST=config.input.short_side,
            MAX_SIZE_TEST=config.input.long_side,
            FORMAT="BGR",
        ),
        SIZE_DIVISIBILITY=0,
        PAD_VALUE=0,
        BACKBONE=Namespace(FREEZE_AT=0),
        RESNETS=Namespace(
            DEPTH={(3, 4, 6, 3): 50, (3, 4, 23, 3): 101}[config.resnet.blocks],
            NORM="BN",
            NUM_GROUPS=1,
            OUT_FEATURES=["res4"],
            STEM_OUT_CHANNELS=width,
            WIDTH_PER_GROUP=width,
            RES2_OUT_CHANNELS=4 * width,
            STRIDE_IN_1X1=config.resnet.stride_in_1x1,
            RES5_DILATION=1,
        ),
        ANCHOR_GENERATOR=Namespace(
            SIZES=[list(proposals.anchor_sizes)],
            ASPECT_RATIOS=[list(proposals.anchor_ratios)],
            OFFSET=0.0,
        ),
        PROPOSAL_GENERATOR=Namespace(
            HIDDEN_CHANNELS=proposals.channels, MIN_SIZE=proposals.min_size
        ),
        RPN=Namespace(
            IN_FEATURES=["res4"],
            NMS_THRESH=proposals.nms_threshold,
            PRE_NMS_TOPK_TEST=proposals.before_nms,
            POST_NMS_TOPK_TEST=proposals.after_nms,
            PRE_NMS_TOPK_TRAIN=0,
            POST_NMS_TOPK_TRAIN=0,
            BBOX_REG_WEIGHTS=(1.0, 1.0, 1.0, 1.0),
            BATCH_SIZE_PER_IMAGE=1,
            POSITIVE_FRACTION=0.5,
            SMOOTH_L1_BETA=0.0,
            LOSS_WEIGHT=1.0,
            BOUNDARY_THRESH=-1,
            IOU_THRESHOLDS=[0.3, 0.7],
            IOU_LABELS=[0, -1, 1],
        ),
        ROI_HEADS=Namespace(
            IN_FEATURES=["res4"],
            NUM_CLASSES=regions.object_classes,
            NMS_THRESH_TEST=list(selection.image_nms_thresholds),
            SCORE_THRESH_TEST=selection.score_threshold,
            POSITIVE_FRACTION=0.25,
            PROPOSAL_APPEND_GT=False,
        ),
        ROI_BOX_HEAD=Namespace(
            ATTR=regions.attribute_classes > 0,
            NUM_ATTRS=regions.attribute_classes,
            BBOX_REG_WEIGHTS=regions.box_weights,
            CLS_AGNOSTIC_BBOX_REG=regions.class_agnostic_boxes,
            POOLER_RESOLUTION=regions.pool_size,
            POOLER_SAMPLING_RATIO=0,
            RES5HALVE=not regions.dilated,
            SMOOTH_L1_BETA=0.0,
        ),
        MIN_DETECTIONS=selection.boxes,
        MAX_DETECTIONS=selection.boxes,
    )


def peer_input(config: DetectorConfig, image: np.ndarray) -> torch.Tensor:
    """What its preprocessing makes of an RGB image: (1, 3, H, W)."""
    preprocess = peer_module("processing_image").Preprocess(peer_settings(config))
    bgr = torch.from_numpy(image[:, :, ::-1].copy()).float()
    pixels, _, _ = preprocess([bgr])
    return pixels


def peer_detections(
    config: DetectorConfig, weights: dict[str, torch.Tensor], image: np.ndarray
) -> dict[str, np.ndarray]:
    """Boxes over the image's size, features, classes and attributes of its detections."""
    settings = peer_settings(config)
    network = peer_module("modeling_frcnn").GeneralizedRCNN(settings).eval()
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    network.load_state_dict(weights | dict.fromkeys(counters, torch.tensor(0)))
    pixels = peer_input(config, image)
    shape = torch.tensor([pixels.shape[-2:]])
    scale = torch.tensor([image.shape[:2]]) / shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a meshgrid without an indexing
        found = network(pixels, shape, scales_yx=scale, return_tensors="pt")
    names = {
        "boxes": "normalized_boxes",
        "roi_features": "roi_features",
        "object_ids": "obj_ids",
        "object_scores": "obj_probs",
        "attribute_ids": "attr_ids",
        "attribute_scores": "attr_probs",
    }
    return {ours: found[theirs][0].numpy() for ours, theirs in names.items()}
