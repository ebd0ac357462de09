"""Extraction: the detector against torchvision's of the same size, and the command's workers.

``uv run benchmarks/bench_extract.py`` lets our Faster R-CNN (ResNet-50, the published sizes,
random weights) and two of torchvision take turns at single photographs: its own classes around the
same layers, and its stock ``fasterrcnn_resnet50_fpn`` with as many proposals. Then it runs
``launch/extract.py`` with a small detector on two numbers of images, with one worker and with two:
the differences are what an image costs, without the start. It writes ``results/extract.json``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from lxmert_dist.config.detector import DetectorConfig
from lxmert_dist.detect import FasterRcnnDetector, save_detector
from lxmert_dist.detect.faster_rcnn import FasterRcnn
from record import RESULTS, log_to_mlflow, new_record, write_record
from report import render

ROOT = Path(__file__).parent.parent
OBJECTS, ATTRIBUTES = 1600, 400
SMALL = {
    "input": {"short_side": 96, "long_side": 144},
    "resnet": {"blocks": (1, 1, 1, 1), "width": 8},
    "proposals": {"channels": 32, "anchor_sizes": (16, 32, 64), "after_nms": 30},
    "regions": {"object_classes": 100, "attribute_classes": 20},
    "selection": {"boxes": 10, "too_few": "whole_image"},
}


def main() -> None:
    """Measure, and record unless it is a smoke test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3, help="of the detectors (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    parser.add_argument("--warm-up", type=int, default=1, help="rounds before (default 1)")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("detectors", "workers"),
        default=("detectors", "workers"),
        help="what is measured; the rest of the record stays (default: all)",
    )
    parser.add_argument(
        "--counts", type=int, nargs=2, default=(64, 512), help="of the command (default 64 512)"
    )
    parser.add_argument("--remarks", default="", help="on the machine, for the report")
    parser.add_argument("--smoke", action="store_true", help="tiny, and nothing is recorded")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts = (4, 8) if arguments.smoke else tuple(arguments.counts)
    rounds, images = (1, 1) if arguments.smoke else (arguments.rounds, arguments.images)
    record = new_record("extract")
    record["versions"] = {name: version(name) for name in ("torch", "torchvision")}
    record |= {"images": images, "rounds": rounds, "remarks": arguments.remarks}
    record["load"] = os.getloadavg()[0]
    file = RESULTS / f"{record['name']}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    record |= {name: before[name] for name in ("detectors", "counts", "workers") if name in before}
    if "detectors" in arguments.parts:
        warm_up = 0 if arguments.smoke else arguments.warm_up
        record["detectors"] = detectors(images, rounds, warm_up, small=arguments.smoke)
    if "workers" in arguments.parts:
        numbers = (2,) if arguments.smoke else (1, 2)
        record["counts"] = counts
        record["workers"] = {str(n): workers(n, counts) for n in numbers}
    for name, row in record["detectors"].items():
        print(f"{name}: {row['cpu_s']:.2f} CPU-s, {1 / row['wall_s']:.3f} images/s")
    for number, row in record["workers"].items():
        print(
            f"{number} workers: {row['cpu_s']:.4f} CPU-s an image, {1 / row['wall_s']:.2f} images/s"
        )
        print(f"{number} workers: peak MiB {[round(p / 2**20) for p in row['peak_bytes']]}")
    if not arguments.smoke:
        write_record(record)
        render()
        rates = {f"{n} workers images/s": 1 / row["wall_s"] for n, row in record["workers"].items()}
        cost = {f"{n} CPU-s": row["cpu_s"] for n, row in record["detectors"].items()}
        log_to_mlflow(record, rates | cost)


def detectors(count: int, rounds: int, warm_up: int, *, small: bool) -> dict[str, dict]:
    """CPU and wall seconds an image, medians over the rounds, of single images."""
    config = DetectorConfig.model_validate(
        SMALL
        if small
        else {
            "resnet": {"blocks": (3, 4, 6, 3)},
            "regions": {"object_classes": OBJECTS, "attribute_classes": ATTRIBUTES},
            "selection": {"too_few": "whole_image"},
        }
    )
    torch.manual_seed(0)
    ours = detector(config)
    images = [photograph(number, 427, 640) for number in range(count)]
    tensors = [torch.from_numpy(image).permute(2, 0, 1) / 255 for image in images]
    theirs = same_layers(config)
    contestants: dict[str, Callable[[], object]] = {
        "torchvision, stock with FPN": alone(stock(config), tensors),
        "torchvision, the same layers": alone(theirs, tensors),
        "ours": lambda: [ours.detect(["a"], [image]) for image in images],
    }
    regions: list[int] = []
    for head in (theirs.roi_heads.box_head, ours._network.regions.layer4):
        head.register_forward_pre_hook(lambda _, given: regions.append(len(given[0])))
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for turn in range(rounds + warm_up):
        for name, run in contestants.items():
            began, cpu = time.perf_counter(), time.process_time()
            run()
            if turn >= warm_up:
                both = time.process_time() - cpu, time.perf_counter() - began
                spent[name].append((both[0] / count, both[1] / count))
    print(f"regions of an image: {sorted(set(regions))}")
    return {
        name: {
            "cpu_s": statistics.median(cpu for cpu, _ in rows),
            "wall_s": statistics.median(wall for _, wall in rows),
            "all_cpu_s": [cpu for cpu, _ in rows],
        }
        for name, rows in spent.items()
    }


def detector(config: DetectorConfig) -> FasterRcnnDetector:
    """Ours, with random weights."""
    return FasterRcnnDetector(
        config,
        FasterRcnn(config),
        object_classes=[f"object {i}" for i in range(config.regions.object_classes)],
        attribute_classes=[f"attribute {i}" for i in range(config.regions.attribute_classes)],
        name="random",
    )


def alone(network: nn.Module, images: list[torch.Tensor]) -> Callable[[], object]:
    """One image after the other through a network of torchvision."""

    @torch.inference_mode()
    def run() -> list[object]:
        return [network([image]) for image in images]

    return run


class _Res5(nn.Sequential):
    """A region's 14x14 map -> its feature; torchvision calls this the box head."""

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """(R, 1024, 14, 14) -> (R, 2048)."""
        return super().forward(pooled).mean(dim=(2, 3))


def same_layers(config: DetectorConfig) -> nn.Module:
    """Torchvision's Faster R-CNN around a ResNet-50 whose last stage sees each region, dilated."""
    network = resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    body = nn.Sequential(*list(network.children())[:7])
    body.out_channels = 1024
    sizes = tuple(int(size) for size in config.proposals.anchor_sizes)
    head = _Res5(network.layer4)
    model = FasterRCNN(
        body,
        box_head=head,
        box_predictor=_Predictor(config.regions.object_classes + 1),
        rpn_anchor_generator=AnchorGenerator((sizes,), (config.proposals.anchor_ratios,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 0),
        **_limits(config),
    )
    return model.eval()


class _Predictor(nn.Module):
    """Scores and corrections of a region, as torchvision's, from 2,048 numbers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scores, self.corrections = nn.Linear(2048, classes), nn.Linear(2048, 4 * classes)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, 2048) -> logits and corrections."""
        return self.scores(features), self.corrections(features)


def stock(config: DetectorConfig) -> nn.Module:
    """Torchvision's published builder: ResNet-50 with a feature pyramid."""
    classes = config.regions.object_classes + 1
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=classes, **_limits(config)
    )
    return model.eval()


def _limits(config: DetectorConfig) -> dict[str, int]:
    """As many pixels, proposals and boxes as ours."""
    return {
        "min_size": config.input.short_side,
        "max_size": config.input.long_side,
        "rpn_pre_nms_top_n_test": config.proposals.before_nms,
        "rpn_post_nms_top_n_test": config.proposals.after_nms,
        "box_detections_per_img": config.selection.most,
    }


def photograph(number: int, height: int, width: int) -> np.ndarray:
    """A smooth picture with noise, uint8 RGB."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height))
    noise = rng.normal(0, 8, (height, width, 3))
    return np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)


def workers(number: int, counts: tuple[int, ...]) -> dict:
    """What an image more costs the command, and the most memory of one of its processes."""
    walls, cpus, peaks = [], [], []
    with tempfile.TemporaryDirectory() as place:
        for count in counts:
            folder = Path(place) / str(count)
            folder.mkdir()
            for image in range(count):
                Image.fromarray(photograph(image, 213, 320)).save(folder / f"{image}.jpg")
        config = DetectorConfig.model_validate(SMALL)
        torch.manual_seed(0)
        ours = detector(config)
        save_detector(
            Path(place) / "detector",
            config,
            ours._network,
            object_classes=ours.object_classes,
            attribute_classes=ours.attribute_classes,
        )
        for count in counts:
            wall, cpu, peak = extract(Path(place), count, number)
            walls.append(wall)
            cpus.append(cpu)
            peaks.append(peak)
    more = counts[1] - counts[0]
    return {
        "wall_s": (walls[1] - walls[0]) / more,
        "cpu_s": (cpus[1] - cpus[0]) / more,
        "peak_bytes": peaks,
    }


def extract(place: Path, count: int, number: int) -> tuple[float, float, int]:
    """Run the command; its wall and CPU seconds, and the peak of its largest process in bytes."""
    line = [sys.executable, str(ROOT / "launch/extract.py"), "--images", str(place / str(count))]
    line += ["--detector", str(place / "detector"), "--out", str(place / f"store{count}_{number}")]
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen([*line, "--workers", str(number)], cwd=ROOT)
    ended, status, used = 0, 0, None
    while not ended:
        time.sleep(0.1)
        peak = max(peak, most_memory(process.pid))
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"launch/extract.py ended with {process.returncode}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, peak


def most_memory(pid: int) -> int:
    """The most that a process, or one that it started, held at any time, in bytes."""
    peak = 0
    try:
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peaks = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
            peak = max([peak, *(1024 * kib for kib in peaks)])
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
    return peak


if __name__ == "__main__":
    main()
