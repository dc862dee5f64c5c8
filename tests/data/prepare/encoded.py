"""Pictures in all formats, and what the tests of decoding say of them."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from making import encode, noise
from PIL import Image

from rvae_jax.data.prepare.decode import decode
from rvae_jax.data.prepare.sources.source import UnusableError

LOSSLESS_WEBP = {"format": "WEBP", "lossless": True, "exact": True}


def natural(h, w, seed=0):
    """Smooth, in all colours."""
    coarse = noise(max(2, h // 12), max(2, w // 12), 3, seed=seed)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)


def decoded(data):
    picture = decode(data)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == (picture.height, picture.width, 3)
    return picture.pixels


def reason_for(data):
    with pytest.raises(UnusableError) as info:
        decode(data)
    reason = str(info.value)
    assert reason
    assert "\n" not in reason
    return reason


def assert_near(found, expected, mean=2.0):
    assert found.shape == expected.shape
    assert np.abs(found.astype(np.float64) - expected).mean() < mean


def rounded(exact):
    return np.floor(exact + 0.5).astype(np.uint8)


def over_white(values, alpha):
    alpha = alpha.astype(np.float64) / 255
    return rounded(values * alpha + 255 * (1 - alpha))


def grey_as_rgb(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, colour, rows, interlaced=False, before=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before + data + png_chunk(b"IEND", b"")


def adam7(image):
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [image[top::down, left::right] for top, left, down, right in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    return png(image.shape[1], image.shape[0], 8, 2, rows, interlaced=True)


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def with_segment(jpeg, marker, content):
    return jpeg[:2] + segment(marker, content) + jpeg[2:]


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


IMAGE = natural(45, 61)


LOSSLESS = {
    "png": encode(IMAGE, "PNG"),
    "png_noise": encode(noise(45, 61, 3), "PNG"),
    "adam7": adam7(IMAGE),
    "bmp": encode(IMAGE, "BMP"),
    "tiff": encode(IMAGE, "TIFF"),
    "tiff_lzw": encode(IMAGE, "TIFF", compression="tiff_lzw"),
    "tiff_deflate": encode(IMAGE, "TIFF", compression="tiff_adobe_deflate"),
    "tiff_packbits": encode(IMAGE, "TIFF", compression="packbits"),
    "tiff_pages": encode(IMAGE, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 8))]),
    "webp": encode(IMAGE, **LOSSLESS_WEBP),
    "webp_frames": encode(IMAGE, **LOSSLESS_WEBP, save_all=True, append_images=[Image.new("RGB", (61, 45))]),
    "apng": encode(IMAGE, "PNG", save_all=True, append_images=[Image.new("RGB", (61, 45))]),
}


LOSSY = {
    "jpeg": encode(IMAGE, "JPEG", quality=95),
    "jpeg_progressive": encode(IMAGE, "JPEG", quality=95, progressive=True),
    "jpeg_444": encode(IMAGE, "JPEG", quality=95, subsampling=0),
    "jpeg_422": encode(IMAGE, "JPEG", quality=95, subsampling=1),
    "jpeg_restarts": encode(IMAGE, "JPEG", quality=95, restart_marker_blocks=2),
    "jpeg_opencv": cv2.imencode(".jpg", IMAGE[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes(),
    "jpeg_exif": encode(IMAGE, "JPEG", quality=95, exif=exif_of(1)),
    "jpeg_cmyk": encode(Image.fromarray(IMAGE).convert("CMYK"), "JPEG", quality=95),
    "jpeg_frames": encode(IMAGE, "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (61, 45))]),
    "tiff_jpeg": encode(IMAGE, "TIFF", compression="jpeg", quality=95),
    "webp_lossy": encode(IMAGE, "WEBP", quality=95),
}


GREY = encode(Image.fromarray(IMAGE[:, :, 1]), "JPEG", quality=95)


def large(jpeg):
    """Too large for the fast path."""
    for _ in range(5):
        jpeg = with_segment(jpeg, 0xFE, bytes(60000))
    return jpeg


WHOLE = {
    **LOSSLESS,
    **LOSSY,
    "jpeg_grey": GREY,
    "jpeg_large": large(LOSSY["jpeg"]),
    "bmp_palette": encode(Image.fromarray(IMAGE).quantize(64), "BMP"),
    "png_palette": encode(Image.fromarray(IMAGE).quantize(64), "PNG"),
    "png_alpha": encode(np.dstack([IMAGE, IMAGE[:, :, 0]]), "PNG"),
    "png_16": cv2.imencode(".png", IMAGE.astype(np.uint16) * 257)[1].tobytes(),
}
