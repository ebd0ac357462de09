"""Images -> RoI records: which boxes, which features, which labels."""

from lxmert_dist.detect.faster_rcnn_detector import FasterRcnnDetector
from lxmert_dist.detect.overlay import draw_record
from lxmert_dist.detect.salient_detector import SalientDetector
from lxmert_dist.detect.single import detect
from lxmert_dist.detect.storage import load_detector, save_detector
from lxmert_dist.opening import open_image

__all__ = [
    "FasterRcnnDetector",
    "SalientDetector",
    "detect",
    "draw_record",
    "load_detector",
    "open_image",
    "save_detector",
]
