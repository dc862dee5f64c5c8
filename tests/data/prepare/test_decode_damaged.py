import numpy as np
import pytest
from encoded import IMAGE, LOSSLESS, WHOLE, reason_for
from making import encode, noise

from rvae_jax.data.prepare.decode import decode
from rvae_jax.data.prepare.sources.source import UnusableError


def _lost_or_same(data, expected):
    """Whether it is refused; else it must have all of the pixels."""
    try:
        found = decode(data).pixels
    except UnusableError as error:
        assert str(error)
        assert "\n" not in str(error)
        return True
    np.testing.assert_array_equal(found, expected)
    return False


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize("kind", WHOLE)
def test_a_truncated_picture_is_refused_or_complete(kind):
    data = WHOLE[kind]
    expected = decode(data).pixels
    rng = np.random.default_rng(len(data))
    first = {"tiff_pages": 0.5, "webp_frames": 0.5, "apng": 0.5, "jpeg_frames": 0.3}.get(kind, 0.85)  # of the frames
    for length in (*rng.integers(1, int(first * len(data)), 20).tolist(), 20):
        assert _lost_or_same(data[:length], expected), length
    for length in (*rng.integers(int(first * len(data)), len(data), 20).tolist(), len(data) - 1):
        _lost_or_same(data[:length], expected)


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize(
    "kind", [kind for kind in WHOLE if kind not in ("bmp", "bmp_palette", "tiff", "tiff_pages", "tiff_jpeg")]
)
def test_a_picture_that_ends_in_zeros_is_refused_or_complete(kind):
    """As an interrupted download leaves behind. What is not compressed has no means to tell."""
    data = WHOLE[kind]
    expected = decode(data).pixels
    rng = np.random.default_rng(len(data))
    for length in rng.integers(1, len(data) - 64, 20).tolist():
        _lost_or_same(data[:length] + bytes(len(data) - length), expected)


def test_zeros_at_the_end_are_named():
    for kind in ("jpeg", "jpeg_cmyk", "jpeg_large"):
        assert "ends in zeros" in reason_for(WHOLE[kind][:-500] + bytes(500))


@pytest.mark.parametrize("kind", ["png", "png_noise", "adam7", "png_palette", "png_16"])
def test_a_flipped_bit_in_a_png_is_noticed(kind):
    data = LOSSLESS.get(kind) or WHOLE[kind]
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    for place in np.random.default_rng(5).integers(start, start + length, 20).tolist():
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        assert reason_for(bytes(broken))


def test_a_wrong_checksum_of_a_png_is_noticed():
    broken = bytearray(LOSSLESS["png"])
    broken[30] ^= 1  # of the header
    assert "PNG" in reason_for(bytes(broken))


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "tiff"])
def test_a_header_alone_is_refused(kind):
    for length in (4, 12, 30):
        assert reason_for(WHOLE[kind][:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\0" * 5000, "begins with b'\\x00\\x00"),
        (b"A picture?\n" * 30, "begins with b'A picture?\\nA'"),
        (b"<!DOCTYPE html><html>404</html>", "begins with b'<!DOCTYPE ht'"),
        (encode(IMAGE, "GIF"), "begins with b'GIF8"),
        (encode(IMAGE, "JPEG2000"), "jP  "),
        (encode(IMAGE, "PPM"), "begins with b'P6\\n"),
        (b"%PDF-1.4\n%", "begins with b'%PDF"),
        (b"\xff\xd8\xff\xd9", "begins with b'\\xff\\xd8\\xff\\xd9'"),
        (b"\xff\xd8\xff\xe0" + noise(999).tobytes() + b"\xff\xd9", ""),
        (b"RIFF\x99\0\0\0WEBPVP8 " + noise(150).tobytes(), "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + noise(999).tobytes(), "PNG"),
    ],
)
def test_other_files_are_refused_with_the_reason(data, reason):
    assert reason in reason_for(data)


def test_random_bytes_are_refused():
    for seed in range(50):
        assert "not recognised as JPEG, PNG, WEBP, BMP, TIFF" in reason_for(b"\1" + noise(500, seed=seed).tobytes())


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize("kind", ["jpeg", "jpeg_exif", "png", "webp", "bmp", "tiff_lzw", "tiff_jpeg"])
def test_damage_anywhere_raises_nothing_else(kind):
    rng = np.random.default_rng(6)
    used = 0
    for _ in range(40):
        data = bytearray(WHOLE[kind])
        for place in rng.integers(2, min(len(data), 700), 3):
            data[place] = rng.integers(256)
        try:
            picture = decode(bytes(data))
        except UnusableError as error:
            assert "\n" not in str(error)
        else:
            used += 1
            assert picture.pixels.shape == (picture.height, picture.width, 3)
    assert used < 40
