"""A Faster R-CNN learns from labelled images."""

from lxmert_dist.detect.training.average_precision import Found, There, mean_average_precision
from lxmert_dist.detect.training.batches import check_images
from lxmert_dist.detect.training.trainer import DetectorTrainer
from lxmert_dist.detect.training.validation import validate

__all__ = [
    "DetectorTrainer",
    "Found",
    "There",
    "check_images",
    "mean_average_precision",
    "validate",
]
