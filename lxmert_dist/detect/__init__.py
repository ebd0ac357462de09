"""Images -> RoI records: which boxes, which features, which labels."""

from lxmert_dist.detect.salient_detector import SalientDetector

__all__ = ["SalientDetector"]
