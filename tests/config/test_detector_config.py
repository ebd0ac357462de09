import pytest
from pydantic import ValidationError

from lxmert_dist.config.detector import DetectorConfig


def test_the_defaults_are_the_published_detector():
    config = DetectorConfig()
    assert config.feature_dim == 2048
    assert config.selection.fewest == config.selection.most == 36
    assert len(config.proposals.anchor_sizes) * len(config.proposals.anchor_ratios) == 12


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"input": {"short_side": 700, "long_side": 600}}, "short_side=700 must be at most"),
        ({"selection": {"rule": "adaptive", "min_boxes": 200}}, "min_boxes=200 must be at most"),
        ({"selection": {"image_nms_thresholds": [0.5, 0.5]}}, "must ascend"),
        ({"selection": {"boxes": 400}}, "after_nms=300 must be at least the 400 boxes"),
        ({"selection": {"rule": "best"}}, "caffe36"),
        ({"resnet": {"blocks": [3, 4, 23]}}, "blocks"),
        ({"resnet": {"width": 0}}, "width"),
        ({"proposals": {"anchor_sizes": []}}, "anchor_sizes"),
        ({"input": {"std": [1.0, 0.0, 1.0]}}, "std"),
        ({"regions": {"depth": 3}}, "depth"),
    ],
)
def test_settings_that_do_not_fit(tree, message):
    with pytest.raises(ValidationError, match=message):
        DetectorConfig.model_validate(tree)
