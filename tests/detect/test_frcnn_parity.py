"""Ours against the public PyTorch implementation with the same weights.

The peer is run where it lies on the machine (see ``frcnn_peer``). What it said once is kept in
``frcnn_golden.npz``, and is compared everywhere.
"""

from pathlib import Path

import numpy as np
import pytest
from frcnn_peer import peer_detections, peer_input

from lxmert_dist.detect.pixels import network_input
from tiny_rcnn import picture, random_weights, tiny_config, tiny_detector, tiny_network

GOLDEN = Path(__file__).parent / "frcnn_golden.npz"
IMAGES = {"wide": (3, 120, 170), "tall": (4, 200, 90), "small": (5, 40, 56)}
SELECTION = {"rule": "regressed", "attribute_background": False}
VARIANTS = {
    "published": {},
    "halved": {"regions": {"dilated": False}},
    "torch style": {
        "resnet": {"stride_in_1x1": False, "caffe_max_pool": False},
        "regions": {"dilated": False},  # the peer cannot dilate a stage of this style
    },
}
# Of boxes, scores (up to 1) and features (up to 10); the worst measured is 2.9e-6, of a feature.
TOLERANCE = 1e-4

pytestmark = pytest.mark.parity


def ours(variant: str, image: np.ndarray):
    (record,) = tiny_detector(**VARIANTS[variant], selection=SELECTION).detect(["x"], [image])
    return record


def compare(record, expected):
    np.testing.assert_array_equal(record.object_ids, expected["object_ids"])
    np.testing.assert_array_equal(record.attribute_ids, expected["attribute_ids"])
    for name in ("boxes", "object_scores", "attribute_scores", "roi_features"):
        np.testing.assert_allclose(
            getattr(record, name), expected[name], rtol=0, atol=TOLERANCE, err_msg=name
        )


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_equal_what_the_peer_said(variant, name):
    with np.load(GOLDEN) as golden:
        prefix = f"{variant}/{name}/"
        expected = {k.removeprefix(prefix): golden[k] for k in golden if k.startswith(prefix)}
    compare(ours(variant, picture(*IMAGES[name])), expected)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_equal_the_peers(variant, name):
    image = picture(*IMAGES[name])
    config = tiny_config(**VARIANTS[variant], selection=SELECTION)
    weights = random_weights(tiny_network(config), seed=0)
    compare(ours(variant, image), peer_detections(config, weights, image))


@pytest.mark.parametrize("size", [(480, 640), (900, 1300), (333, 2000), (30, 31)])
def test_the_input_equals_the_peers(size):
    config = tiny_config(input={"short_side": 600, "long_side": 1000})
    image = picture(1, *size)
    expected = peer_input(config, image)
    # Of values up to 255; measured: exactly equal.
    np.testing.assert_allclose(network_input(image, config.input), expected, rtol=0, atol=1e-4)


def write_golden():
    """Ask the peer again: ``python -c 'import test_frcnn_parity as t; t.write_golden()'``."""
    arrays = {}
    for variant, sections in VARIANTS.items():
        config = tiny_config(**sections, selection=SELECTION)
        weights = random_weights(tiny_network(config), seed=0)
        for name, size in IMAGES.items():
            found = peer_detections(config, weights, picture(*size))
            arrays |= {f"{variant}/{name}/{field}": array for field, array in found.items()}
    np.savez_compressed(GOLDEN, **arrays)
