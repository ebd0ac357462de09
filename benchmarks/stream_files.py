"""The files that ``bench_stream.py`` measures on: a store, and the peers' forms of its samples."""

import subprocess
from pathlib import Path

from s3fs import S3FileSystem

from stream_samples import Samples

HERE = Path(__file__).parent

_mosaic_python: list[str] = []


def mosaic(*arguments: str) -> list[str]:
    """The command line that runs MosaicML's side; its environment is made when first needed."""
    script = str(HERE / "stream_mosaic.py")
    if not _mosaic_python:
        subprocess.run(["uv", "sync", "--quiet", "--script", script], check=True)
        found = subprocess.run(
            ["uv", "python", "find", "--script", script], check=True, capture_output=True, text=True
        )
        _mosaic_python.append(found.stdout.strip())
    return [_mosaic_python[0], *arguments]


def make_store(uri: str, images: int, *, smoke: bool) -> None:
    """As ``launch/prepare.py synthetic`` makes it."""
    from lxmert_dist.ingest import SyntheticImages, prepare_synthetic

    sizes = {"num_objects": 4, "feature_dim": 16, "vocab_size": 1000} if smoke else {}
    prepare_synthetic(uri, SyntheticImages(9595, **sizes), num_images=images, progress=False)


def make_files(directory: Path, forms: list[str], peers: set[str]) -> None:
    """The peers' files of the samples that were saved in a directory."""
    if "mosaicml" in peers:
        subprocess.run(
            mosaic(str(HERE / "stream_mosaic.py"), "write", str(directory), *forms), check=True
        )
    if "webdataset" not in peers:
        return
    import webdataset as wds

    samples = Samples.load(directory)
    for form, every in (("pair", samples.by_pair), ("image", samples.by_image)):
        if form not in forms:
            continue
        (directory / f"web_{form}").mkdir()
        pattern = str(directory / f"web_{form}" / "%05d.tar")
        # as large as MosaicML's shards
        with wds.ShardWriter(pattern, maxsize=64 << 20, maxcount=1 << 30, verbose=0) as out:
            for sample in every():
                out.write(
                    {
                        "__key__": f"{sample['pair']:09d}",
                        "pair": str(sample["pair"]).encode(),
                        "features": sample["features"].tobytes(),
                        "record": sample["record"].tobytes(),
                        "tokens": sample["tokens"].tobytes(),
                    }
                )


def make_zarr(path: Path, samples: Samples) -> None:
    """The same array as one would lay it out to read single images: a chunk each, 64 an object."""
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec

    inner = samples.features.shape[1:]
    array = zarr.create_array(
        path,
        shape=samples.features.shape,
        chunks=(1, *inner),
        shards=(64, *inner),
        dtype=samples.features.dtype,
        serializer=BytesCodec(),
        compressors=[Crc32cCodec()],
    )
    array[:] = samples.features


def fill(bucket: str, directory: Path) -> None:
    """Copy everything to the server."""
    client = S3FileSystem()
    for name in ("store", "images.zarr", "mds_image", "web_image"):
        if (directory / name).exists():
            client.put(str(directory / name), f"{bucket}/{name}", recursive=True)
