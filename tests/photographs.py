"""Image files of every kind, sound and not, and how a detector's command should take them."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tiny_rcnn import picture


def photograph(seed: int, height: int = 48, width: int = 64) -> Image.Image:
    """A part of a real photograph where scikit-learn brings some, else drawn."""
    try:
        from sklearn.datasets import load_sample_image
    except ImportError:
        return Image.fromarray(picture(seed, height, width))
    rng = np.random.default_rng(seed)
    whole = load_sample_image(("china.jpg", "flower.jpg")[seed % 2])
    top, left = (int(rng.integers(0, n)) for n in (whole.shape[0] - 240, whole.shape[1] - 320))
    part = Image.fromarray(whole[top : top + 240, left : left + 320])
    return part.resize((width, height))


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""
    data = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def sound() -> dict[str, bytes]:
    """Files that are unusual, and sound."""
    image = photograph(0)
    sixteen = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = {"save_all": True, "append_images": [photograph(1), photograph(2)]}
    return {
        "plain.jpg": encoded(image, "JPEG"),
        "cmyk.jpeg": encoded(image.convert("CMYK"), "JPEG"),
        "palette.png": encoded(image.quantize(16), "PNG"),
        "gray.png": encoded(image.convert("L"), "PNG"),
        "sixteen.PNG": encoded(Image.fromarray(sixteen), "PNG"),
        "exif.jpg": encoded(image, "JPEG", exif=turned),
        "animated.gif": encoded(image, "GIF", **frames),
        "tiny.bmp": encoded(image.resize((1, 1)), "BMP"),
    }


def unsound() -> dict[str, tuple[bytes, str]]:
    """Files that cannot be opened, and what is said of each."""
    whole = encoded(photograph(3), "JPEG", quality=95)
    corrupt = bytearray(encoded(photograph(3), "PNG"))
    corrupt[60:160] = bytes(100)
    return {
        "empty.jpg": (b"", "empty"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "corrupt.png": (bytes(corrupt), "damaged"),
        "bomb.png": (bomb(), "too large|more than"),
        "text.jpg": (b"<html>404 Not Found</html>", "no image"),
    }


def write_photographs(folder: Path, count: int, *, unusual: bool = False) -> Path:
    """``count`` plain images in nested folders; ``unusual``, those above, and a note, too."""
    files = {f"set{i % 3}/part/{i:03}.jpg": encoded(photograph(i), "JPEG") for i in range(count)}
    if unusual:
        files |= {f"odd/{name}": data for name, data in sound().items()}
        files |= {f"odd/bad/{name}": data for name, (data, _) in unsound().items()}
        files["odd/readme.txt"] = b"not an image"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(path: Path, folder: Path) -> Path:
    """All files of a folder, by their names in it."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            tar.add(file, file.relative_to(folder).as_posix())
    return path
