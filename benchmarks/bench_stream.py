"""The data path against MosaicML streaming, webdataset and zarr over s3fs, on the same samples.

``uv run --group bench benchmarks/bench_stream.py`` makes a synthetic store and the peers' files of
it in a scratch directory, on local disk and on an S3 server (SeaweedFS) of its own, checks that
every side delivers exactly the same pairs, times epochs of all of them in turn, writes
``benchmarks/results/stream_*.json``, and renders ``RESULTS.md``. MosaicML runs in an environment of
its own, which ``uv`` makes. Times of the server are not in any figure.

Local files: batches of pairs with their features stacked, one copy a pair. S3: every image once.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from record import log_to_mlflow, new_record, write_record
from report import render
from stream_contestants import samples_of
from stream_files import fill, make_files, make_store, make_zarr, mosaic
from stream_samples import Samples, expected

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from s3_server import S3Server, ServerUnavailableError, serve_s3  # noqa: E402

PACKAGES = ("mosaicml-streaming", "webdataset", "zarr", "s3fs", "obstore", "numpy", "torch")


@dataclass
class Contestant:
    """One way to the same samples."""

    name: str
    process: str
    """Which worker process runs it."""
    settings: dict
    delivers: str = "pairs"
    """``pairs``, each once; ``images``: each once; anything else is not checked."""
    rounds: list[dict] = field(default_factory=list)


class Worker:
    """A process that delivers epochs on request, so that sides can take turns."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def ask(self, settings: dict) -> dict:
        """One epoch."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(settings) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"a contestant failed: {self._process.args}")
        return json.loads(answer)

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def main() -> None:
    """Run the parts that are asked for."""
    arguments = _arguments()
    absent = missing_peers(arguments.peers)
    for name, why in absent.items():
        print(f"{name} is left out: {why}")
    for part in arguments.parts:
        with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="bench_stream_") as scratch:
            try:
                found = PARTS[part](arguments, Path(scratch), absent)
            except ServerUnavailableError as error:
                print(f"nothing is read from S3: {error}")
                continue
        if not arguments.smoke:
            keep(part, arguments, found)


def keep(part: str, arguments: argparse.Namespace, found: dict) -> None:
    """One record a part, so that each can be repeated alone."""
    record = new_record(f"stream_{part}")
    record["versions"] = versions()
    options = [
        option for option in sys.argv[1:] if option not in ("--scratch", str(arguments.scratch))
    ]
    record["command"] = " ".join(["benchmarks/bench_stream.py", *options])
    record.update(found)
    write_record(record)
    render()
    key = UNITS[part]
    log_to_mlflow(
        record,
        {f"{re.sub('[^a-z0-9 ]', '', row['name'])} {key}": row[key] for row in found["rows"]},
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=["local", "s3"], choices=["local", "s3"])
    peers = ["mosaicml", "webdataset"]
    parser.add_argument("--peers", nargs="*", default=peers, choices=peers, help="beside zarr")
    parser.add_argument("--images", type=int, default=512, help="7.5 MB each in one-pair samples")
    parser.add_argument("--more-images", type=int, default=4096, help="in a store of ours alone")
    parser.add_argument("--s3-images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256, help="pairs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds before them")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="of the peers")
    parser.add_argument("--window", type=int, default=1024, help="samples of webdataset's buffer")
    parser.add_argument("--scratch", type=Path, help="where the samples are written")
    parser.add_argument("--smoke", action="store_true", help="tiny, and nothing is recorded")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.images = arguments.more_images = arguments.s3_images = 72
        arguments.batch, arguments.rounds, arguments.workers = 16, 1, [0]
        arguments.warm_up = 0
    return arguments


def missing_peers(wanted: list[str]) -> dict[str, str]:
    """Why a peer takes no part, by name."""
    absent = {}
    if "webdataset" in wanted and not find_spec("webdataset"):
        absent["webdataset"] = "not installed; run with `uv run --group bench`"
    if "mosaicml" in wanted:
        try:
            mosaic()
        except (OSError, subprocess.CalledProcessError) as error:
            absent["mosaicml"] = f"its environment cannot be made ({error})"
    if not find_spec("obstore"):
        print("our obstore backend is left out: not installed; run with `uv run --extra obstore`")
    return absent


def versions() -> dict[str, str]:
    """Of what takes part; MosaicML's are those of its script."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    pinned = (HERE / "stream_mosaic.py").read_text().split('"mosaicml-streaming==')[1]
    return {**found, "mosaicml-streaming": pinned.split('"')[0]}


@contextmanager
def workers(directory: Path, names: set[str], environment: dict[str, str]) -> Iterator[dict]:
    """A process each, until the block ends."""
    environment = {**environment, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        running = {}
        for name in sorted(names):
            script = HERE / "stream_contestants.py"
            command = [sys.executable, str(script), name, str(directory)]
            if name == "mosaicml":
                command = mosaic(str(HERE / "stream_mosaic.py"), "serve", str(directory))
            running[name] = Worker(command, environment)
            stack.callback(running[name].close)
        yield running


def local(arguments: argparse.Namespace, scratch: Path, absent: dict[str, str]) -> dict:
    """Pairs per CPU second, from files in the page cache."""
    directory = scratch / "local"
    directory.mkdir()
    store, larger = str(directory / "store"), str(directory / "larger")
    make_store(store, arguments.images, smoke=arguments.smoke)
    make_store(larger, arguments.more_images, smoke=arguments.smoke)
    samples = samples_of(store)
    samples.save(directory)
    make_files(directory, ["pair", "image"], set(arguments.peers) - set(absent))
    plan = {"batch": arguments.batch, "lanes": 4, "window_shards": 2, "store": store}
    contestants = [
        Contestant("ours", "ours", plan),
        Contestant("ours, k = 4", "ours", {**plan, "pairs_per_image": 4}),
        Contestant(
            f"ours, {arguments.more_images} images",
            "ours",
            {**plan, "store": larger, "window_shards": 8},
            delivers="",
        ),
        Contestant(
            "ours, the pretraining tasks' collation",
            "ours",
            {**plan, "collation": "pretraining"},
            delivers="",
        ),
    ]
    windows = {"pair": arguments.window, "image": len(samples.image_rows)}
    contestants += [
        Contestant(
            f"{peer}, one sample a{'n' * (form == 'image')} {form}, {count} workers",
            peer,
            {"batch": arguments.batch, "form": form, "workers": count, "window": window},
        )
        for peer in arguments.peers
        for form, window in windows.items()
        for count in arguments.workers
    ]
    rows = compete(arguments, directory, contestants, samples, absent, {})
    return {
        "images": len(samples.features),
        "pairs": len(samples.image_rows),
        "image_bytes": samples.features[0].nbytes,
        "window": arguments.window,
        "batch": arguments.batch,
        "rows": rows,
    }


def remote(arguments: argparse.Namespace, scratch: Path, absent: dict[str, str]) -> dict:
    """CPU seconds per GB of features that are read once, from an S3 server."""
    directory = scratch / "s3"
    (directory / "server").mkdir(parents=True)
    store = str(directory / "store")
    make_store(store, arguments.s3_images, smoke=arguments.smoke)
    samples = samples_of(store)
    samples.save(directory)
    make_files(directory, ["image"], set(arguments.peers) - set(absent))
    make_zarr(directory / "images.zarr", samples)
    with serve_s3(directory / "server") as server:
        os.environ.update(server.environment())
        fill(server.bucket, directory)
        contestants = on_s3(arguments, server, directory)
        environment = {**server.environment(), "S3_ENDPOINT_URL": server.endpoint}
        rows = compete(arguments, directory, contestants, samples, absent, environment)
    return {
        "images": len(samples.features),
        "image_bytes": samples.features[0].nbytes,
        "rows": rows,
    }


def on_s3(arguments: argparse.Namespace, server: S3Server, directory: Path) -> list[Contestant]:
    """Who reads from there; MosaicML by its own client, webdataset by curl and signed addresses."""
    from s3fs import S3FileSystem

    client = S3FileSystem()
    plan = {"batch": arguments.batch, "lanes": 4, "window_shards": 2, "once": True}
    plan["epochs"] = 4  # an epoch alone would be over before any memory is used again
    other = {"batch": arguments.batch, "form": "image", "once": True, "window": arguments.batch}
    urls = [
        f"pipe:curl -sf '{client.sign(f'{server.bucket}/web_image/{file.name}', 86400)}'"
        for file in sorted((directory / "web_image").glob("*.tar"))
    ]
    found = [
        *(
            Contestant(
                f"ours, {backend}",
                "ours",
                {**plan, "store": server.uri("store"), "backend": backend},
                "images",
            )
            for backend in ("fsspec", "obstore")
            if backend == "fsspec" or find_spec("obstore")
        ),
        Contestant(
            "zarr + s3fs, image by image",
            "zarr",
            {"form": "image", "batch": arguments.batch, "array": server.uri("images.zarr")},
            delivers="",
        ),
        Contestant(
            "zarr + s3fs, chunks of 64 images in order",
            "zarr",
            {"form": "chunk", "array": server.uri("store/train/roi_features")},
            delivers="",
        ),
    ]
    places = {"mosaicml": {"remote": server.uri("mds_image")}, "webdataset": {"urls": urls}}
    return found + [
        Contestant(
            f"{peer}, one sample an image, {count} workers",
            peer,
            {**other, **places[peer], "workers": count},
            "images",
        )
        for peer in arguments.peers
        for count in arguments.workers
    ]


def compete(
    arguments: argparse.Namespace,
    directory: Path,
    contestants: list[Contestant],
    samples: Samples,
    absent: dict[str, str],
    environment: dict[str, str],
) -> list[dict]:
    """Check what everybody delivers, then time epochs in turn."""
    present = [one for one in contestants if one.process not in absent]
    wanted = expected(samples)
    with workers(directory, {one.process for one in present}, environment) as running:
        for one in present:
            target = directory / "delivered.npy"
            settings = {**one.settings, "round": 0, "check": str(target)}
            if one.delivers:
                running[one.process].ask(settings)
                check(one, np.load(target), wanted, samples.image_rows, arguments.batch)
        for number in range(arguments.warm_up + arguments.rounds):
            for one in present:
                answer = running[one.process].ask({**one.settings, "round": number})
                if number >= arguments.warm_up:
                    one.rounds.append(answer)
    rows = [summary(one, first=present[0]) for one in present]
    for row in rows:
        print(
            f"{row['name']}: {row['pairs_per_cpu_second']:.0f} pairs a CPU second, "
            f"{row['pairs_per_second']:.0f} a second, {row['cpu_seconds_per_gb']:.3f} CPU-s/GB, "
            f"ours by CPU {row['cpu_ratio']:.2f}, by time {row['ratio']:.2f}"
        )
    return rows


def check(
    one: Contestant, found: np.ndarray, wanted: np.ndarray, image_rows: np.ndarray, batch: int
) -> None:
    """Every pair (or image) once with its own image and text, but for an incomplete last batch."""
    pairs = found[:, 0]
    if not np.array_equal(found, wanted[pairs]):
        raise SystemExit(f"{one.name} delivers other samples than the store has")
    units, total = (
        (image_rows[pairs], len(np.unique(image_rows)))
        if one.delivers == "images"
        else (pairs, len(wanted))
    )
    if len(np.unique(units)) != len(units) or total - len(units) >= batch:
        raise SystemExit(f"{one.name} delivers {len(units)} of {total} {one.delivers}, or repeats")


def summary(one: Contestant, first: Contestant) -> dict:
    """Medians of the rounds, and of how much more the first contestant did in each."""

    def median(value) -> float:  # type: ignore[no-untyped-def]
        return statistics.median(value(answer) for answer in one.rounds)

    def ratio(of: str) -> float:
        return statistics.median(
            mine["pairs"] / mine[of] * other[of] / other["pairs"]
            for mine, other in zip(first.rounds, one.rounds, strict=True)
        )

    return {
        "name": one.name,
        "settings": {k: v for k, v in one.settings.items() if k not in PLACES},
        "pairs_per_cpu_second": median(lambda a: a["pairs"] / a["cpu_seconds"]),
        "pairs_per_second": median(lambda a: a["pairs"] / a["seconds"]),
        "cpu_seconds_per_gb": median(lambda a: a["cpu_seconds"] / a["feature_bytes"] * 1e9),
        "ratio": ratio("seconds"),
        "cpu_ratio": ratio("cpu_seconds"),
        "rounds": one.rounds,
    }


PLACES = ("store", "array", "remote", "urls")
PARTS = {"local": local, "s3": remote}
UNITS = {"local": "pairs_per_cpu_second", "s3": "cpu_seconds_per_gb"}


if __name__ == "__main__":
    main()
