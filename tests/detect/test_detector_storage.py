"""Detectors in directories: ours, and the published layouts."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lxmert_dist.config import dump_toml, load_config
from lxmert_dist.config.detector import DetectorConfig
from lxmert_dist.detect.faster_rcnn import FasterRcnn
from lxmert_dist.detect.storage import load_detector, save_detector
from lxmert_dist.detect.weights import published_name
from lxmert_dist.errors import CheckpointError, ConfigError
from tiny_rcnn import picture, random_weights, tiny_config, tiny_detector, tiny_network

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path) -> Path:
    """A detector of ours."""
    detector = tiny_detector()
    save_detector(
        tmp_path,
        detector.config,
        tiny_network(detector.config),
        object_classes=detector.object_classes,
        attribute_classes=detector.attribute_classes,
    )
    return tmp_path


def published(tmp_path: Path, form: str) -> Path:
    """The same weights as the published files keep them."""
    config = tiny_config()
    tensors = random_weights(FasterRcnn(config), seed=0)
    tensors["backbone.stem.conv1.norm.num_batches_tracked"] = torch.tensor(0)
    (tmp_path / "detector.toml").write_text(dump_toml(config))
    (tmp_path / "objects.txt").write_text("\n".join(f"Object {i},thing" for i in range(30)))
    (tmp_path / "attributes.txt").write_text("\n".join(f"attribute {i}" for i in range(12)))
    if form == "huggingface":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        pickled = pickle.dumps({"model": arrays, "__author__": "someone"}, protocol=2)
        (tmp_path / "faster_rcnn_from_caffe_attr.pkl").write_bytes(pickled)
    return tmp_path


def same(a, b):
    image = picture(3, 80, 110)
    (one,), (other,) = a.detect(["x"], [image]), b.detect(["x"], [image])
    np.testing.assert_array_equal(one.roi_features, other.roi_features)
    np.testing.assert_array_equal(one.boxes, other.boxes)


def test_what_was_saved_is_opened(directory):
    detector = load_detector(directory)
    same(detector, tiny_detector())
    assert detector.object_classes[3] == "object 3"
    assert detector.name.startswith("Faster R-CNN ")


@pytest.mark.parametrize("form", ["huggingface", "detectron2"])
def test_the_published_layouts_are_opened(tmp_path, form, directory):
    there = tmp_path / "published"
    there.mkdir()
    detector = load_detector(published(there, form))
    same(detector, tiny_detector())
    assert detector.object_classes[3] == "object 3"
    assert detector.name == load_detector(directory).name  # the same weights


def test_the_names_are_those_of_the_published_detector():
    """Parameters of the published sizes, as its code and its readers list them."""
    with torch.device("meta"):
        network = FasterRcnn(DetectorConfig())
    shapes = {published_name(n): tuple(t.shape) for n, t in network.state_dict().items()}
    for name, shape in {
        "backbone.stem.conv1.weight": (64, 3, 7, 7),
        "backbone.stem.conv1.norm.running_mean": (64,),
        "backbone.res2.0.shortcut.weight": (256, 64, 1, 1),
        "backbone.res2.0.shortcut.norm.weight": (256,),
        "backbone.res4.22.conv3.weight": (1024, 256, 1, 1),
        "backbone.res4.22.conv3.norm.bias": (1024,),
        "proposal_generator.anchor_generator.cell_anchors.0": (12, 4),
        "proposal_generator.rpn_head.conv.weight": (512, 1024, 3, 3),
        "proposal_generator.rpn_head.objectness_logits.weight": (12, 512, 1, 1),
        "proposal_generator.rpn_head.anchor_deltas.bias": (48,),
        "roi_heads.res5.0.shortcut.weight": (2048, 1024, 1, 1),
        "roi_heads.res5.2.conv2.weight": (512, 512, 3, 3),
        "roi_heads.box_predictor.cls_score.weight": (1601, 2048),
        "roi_heads.box_predictor.bbox_pred.weight": (6400, 2048),
        "roi_heads.box_predictor.cls_embedding.weight": (1601, 256),
        "roi_heads.box_predictor.fc_attr.weight": (512, 2304),
        "roi_heads.box_predictor.attr_score.bias": (401,),
    }.items():
        assert shapes[name] == shape
    assert len(shapes) == len(network.state_dict())


def test_a_setting_can_be_overridden(directory):
    detector = load_detector(directory, overrides=["selection.boxes=5"])
    assert detector.num_objects == 5


def change(directory, edit):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_anchors_are_our_own_where_the_file_has_none(directory):
    change(directory, lambda tensors: tensors.pop("proposals.anchors"))
    load_detector(directory)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("regions.object_score.bias"), r"lacks regions\.object_score\.bias; set"),
        (
            lambda t: t.update({"regions.attribute_score.bias": torch.zeros(9)}),
            r"attribute_score\.bias is \(9,\), and regions\.attribute_classes makes it \(13,\)",
        ),
        (
            lambda t: t.update({"mask_head.bias": torch.zeros(1)}),
            r"mask_head\.bias is no",
        ),
        (lambda t: t.update({"proposals.conv.bias": torch.full((16,), torch.nan)}), "NaN"),
        (lambda t: (t.clear(), t.update(fc=torch.zeros(1))), "not recognised.*fc"),
    ],
)
def test_weights_that_do_not_fit(directory, edit, message):
    change(directory, edit)
    with pytest.raises(CheckpointError, match=message):
        load_detector(directory)


def test_files_that_are_missing_or_too_many(directory):
    (directory / "other.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"there is: model\.safetensors, other\.bin"):
        load_detector(directory)
    (directory / "other.bin").unlink()
    (directory / "objects.txt").write_text("cat\n\ndog\n")
    with pytest.raises(ConfigError, match=r"objects\.txt:2 is empty"):
        load_detector(directory)
    (directory / "objects.txt").unlink()
    with pytest.raises(ConfigError, match=r"cannot read the names of classes in .*objects\.txt"):
        load_detector(directory)
    (directory / "detector.toml").write_text("[regions]\nclasses = 3\n")
    with pytest.raises(ConfigError, match=r"no setting regions\.classes"):
        load_detector(directory)
    (directory / "detector.toml").unlink()
    with pytest.raises(ConfigError, match=r"no .*detector\.toml; for the published weights"):
        load_detector(directory)


def test_the_shipped_file_for_published_weights_spells_the_defaults_out():
    config = load_config(DetectorConfig, ROOT / "configs" / "detector" / "bottom_up.toml")
    assert config.model_dump() == DetectorConfig().model_dump()
