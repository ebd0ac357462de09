"""Image files of every kind, and files that are none."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from lxmert_dist.errors import DataError
from lxmert_dist.opening import open_image

RED, BLUE = (204, 51, 51), (51, 51, 204)  # of the web palette


def half_and_half(width: int = 32, height: int = 16) -> Image.Image:
    """Red at the left, blue at the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def assert_halves(pixels: np.ndarray, left=RED, right=BLUE, slack: int = 40):
    assert pixels.dtype == np.uint8
    assert pixels.shape == (16, 32, 3)
    assert np.abs(pixels[8, 4].astype(int) - left).max() <= slack
    assert np.abs(pixels[8, 28].astype(int) - right).max() <= slack


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_formats(tmp_path, form):
    path = tmp_path / "image.any"
    path.write_bytes(encoded(half_and_half(), form))
    assert_halves(open_image(path))


@pytest.mark.parametrize(
    ("mode", "form"),
    [("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("YCbCr", "TIFF"), ("LAB", "TIFF")],
)
def test_colour_models(mode, form):
    image = half_and_half()
    if mode == "LAB":
        image = Image.merge("LAB", [Image.new("L", image.size, v) for v in (128, 128, 128)])
        assert np.ptp(open_image(encoded(image, form))[0, 0].astype(int)) < 10  # a gray
        return
    assert_halves(open_image(encoded(image.convert(mode), form)))


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray_has_three_equal_channels(mode):
    pixels = open_image(encoded(half_and_half().convert(mode), "PNG"))
    assert pixels.shape == (16, 32, 3)
    assert (pixels == pixels[:, :, :1]).all()


def test_sixteen_bits_keep_their_upper_byte():
    values = np.linspace(0, 65535, 16 * 32).astype(np.uint16).reshape(16, 32)
    pixels = open_image(encoded(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(pixels[:, :, 0], values >> 8)


def test_transparency_lies_over_white():
    image = half_and_half().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 16, 16))
    assert_halves(open_image(encoded(image, "PNG")), left=(255, 255, 255))
    palette = half_and_half().quantize(2)
    opaque = palette.getpixel((28, 8))
    data = encoded(palette, "PNG", transparency=1 - opaque)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_halves(open_image(data), left=(255, 255, 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image(orientation):
    """As the camera was held: whatever is stored, red is at the left afterwards."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = half_and_half()
    if orientation in back:
        image = image.transpose(back[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_halves(open_image(encoded(image, "JPEG", exif=exif, quality=95)))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(form):
    others = [Image.new("RGB", (32, 16), (0, 255, 0))] * 3
    assert_halves(open_image(encoded(half_and_half(), form, save_all=True, append_images=others)))


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""
    data = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "no image that Pillow can decode"),
        (b"\x00" * 1000, "no image"),
        (bomb(), "too large|more than"),
        (encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "floating point values"),
        (encoded(Image.new("I", (4, 4), -5), "TIFF"), "integers of no known range"),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path, data, message):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"picture\.png: .*({message})"):
        open_image(path)
    with pytest.raises(DataError, match=rf"shard/7: .*({message})"):
        open_image(data, "shard/7")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_truncated_files_are_errors(form, share):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, form)
    with pytest.raises(DataError, match="cut: "):
        open_image(data[: int(len(data) * share)], "cut")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_noise_in_a_file_raises_data_errors_alone(form):
    data = encoded(half_and_half(), form)
    rng = np.random.default_rng(2)
    opened = 0
    for _ in range(100):
        noisy = bytearray(data)
        for at in rng.integers(0, len(data), 8):
            noisy[at] = rng.integers(256)
        try:
            pixels = open_image(bytes(noisy), max_pixels=1 << 20)
        except DataError:
            continue
        assert pixels.shape[2] == 3
        opened += 1
    assert opened < 100


def test_a_size_can_be_refused():
    data = encoded(half_and_half(), "PNG")
    with pytest.raises(DataError, match="32x16 are more than 511 pixels"):
        open_image(data, "x", max_pixels=511)
    assert_halves(open_image(data, "x", max_pixels=512))


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: cannot be read \(No such file"):
        open_image(tmp_path / "gone.png")
