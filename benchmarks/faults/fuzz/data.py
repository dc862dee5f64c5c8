"""Readers of what a data set is made of: tables, archives, pictures, records."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import pathlib
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from benchmarks.faults.fuzz import mutations
from benchmarks.faults.fuzz.reader import Reader
from rvae_jax.config import Config, DataConfig, ModelConfig
from rvae_jax.data import catalog, records
from rvae_jax.data.prepare import decode
from rvae_jax.data.prepare.sources import faces, opening, tables
from rvae_jax.data.prepare.sources.source import UnusableError

_PREPARED = "set/8_grey/1.0.0/preparation.json"
_FILES = {"a.png": 1, "b/c.png": 1, "b/d.jpg": 1}
_IMAGE = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(16, 12, 3)
_FEATURES = (tfds.features.Image(shape=_IMAGE.shape), tfds.features.Tensor(shape=_IMAGE.shape, dtype=np.uint8))
_numbers = itertools.count()


def _label_files(_: pathlib.Path) -> Iterator[bytes]:
    text = "name,age,smiles,who\na.png,7,1,Ann\nb/c.png,31,0,Bob\nd.jpg,4,1,\n"
    yield text.encode()
    yield text.replace(",", ";").encode("utf-16")
    yield b'sep=\t\nname\tscore\t\n"a.png"\t0.5\t\n./b/c.png\t1e3\t\n'


def _read_labels(path: pathlib.Path) -> None:
    table = tables.read_table(path, _FILES)
    for name in _FILES:
        if name in table:
            table.row(name)


def _box_files(_: pathlib.Path) -> Iterator[bytes]:
    yield b"name,left,top,width,height\na.png,1,2,30,40\na.png,1,2,3,4\nd.jpg,-5,0.5,1e1,7\n"


def _zips(_: pathlib.Path) -> Iterator[bytes]:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name in ("train/a.png", "test/ü.jpg", "readme"):
                archive.writestr(name, bytes(50))
        yield file.getvalue()


def _tars(_: pathlib.Path) -> Iterator[bytes]:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        yield _tar("w", form)
    yield _tar("w", tarfile.PAX_FORMAT, **{"GNU.sparse.map": "0,50", "GNU.sparse.size": "50", "size": "50"})


def _compressed_tars(_: pathlib.Path) -> Iterator[bytes]:
    for compression in ("gz", "bz2", "xz"):
        yield _tar(f"w:{compression}", tarfile.PAX_FORMAT)


def _tar(mode: str, form: int, **further: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as archive:
        name = "a/" + "b" * (40 if form == tarfile.USTAR_FORMAT else 120) + ".png"  # a long one has a header of its own
        for kind in (tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(name if kind == tarfile.REGTYPE else f"{kind.decode()}.png")
            member.type, member.linkname = kind, name
            member.pax_headers = further
            member.size = 50 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(bytes(50)))
    return file.getvalue()


def _with_tar_checksums(data: bytes) -> bytes:
    """The tar with right sums in its headers, without which everything in them is ignored."""
    content = bytearray(data)
    for place in range(0, len(content) - tarfile.BLOCKSIZE + 1, tarfile.BLOCKSIZE):
        header = content[place : place + tarfile.BLOCKSIZE]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            content[place + 148 : place + 156] = b"%06o\0 " % sum(header)
    return bytes(content)


def _read_archive(path: pathlib.Path) -> None:
    path = path.rename(path.with_name(f"{next(_numbers)}"))  # readers keep archives open, by their paths
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            source = opening.open_path(path, pathlib.Path(scratch))
            for name in source.files:
                with contextlib.suppress(OSError, UnusableError):
                    source.read(name)
    finally:
        path.unlink()


def _pictures(_: pathlib.Path) -> Iterator[bytes]:
    image = Image.fromarray(_IMAGE)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        yield _encoded(image, kind)
    yield _encoded(
        image, "JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    )
    yield _encoded(image.quantize(4), "PNG", transparency=1)
    yield _encoded(image.convert("LA"), "PNG")
    yield _encoded(image.convert("CMYK"), "TIFF", compression="tiff_lzw")
    for suffix, dtype in ((".png", np.uint16), (".tiff", np.uint16), (".tiff", np.float32)):
        yield cv2.imencode(suffix, _IMAGE.astype(dtype))[1].tobytes()


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _with_png_checksums(data: bytes) -> bytes:
    """A PNG with right checksums, without which it is refused; other files as they are."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    content, place = bytearray(data), 8
    while place + 12 <= len(content):
        end = place + 8 + struct.unpack_from(">I", content, place)[0]
        content[end : end + 4] = struct.pack(">I", zlib.crc32(content[place + 4 : end]))
        place = end + 4
    return bytes(content)


def _read_picture(path: pathlib.Path) -> None:
    for read in (decode.decode, lambda data: decode.decode(data, lambda *_: 8.0), decode.deep_values):
        with contextlib.suppress(UnusableError):
            read(path.read_bytes())


def _records(_: pathlib.Path) -> Iterator[bytes]:
    for content in (cv2.imencode(".png", _IMAGE)[1].tobytes(), _IMAGE.tobytes()):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(content)
        example.features.feature["attributes/smiles"].int64_list.value.append(1)
        yield example.SerializeToString()


def _read_record(path: pathlib.Path) -> None:
    for feature in _FEATURES:
        images = records.Images("here", [path.read_bytes()], feature)
        with contextlib.suppress(records.DamagedError):
            images[0]


def _preparations(folder: pathlib.Path) -> Iterator[bytes]:
    (folder.parent / _PREPARED).parent.mkdir(parents=True)
    known = {"fingerprint": "a", "modified": "b", "source": "the folder c", "shape": [8, 8, 1]}
    yield json.dumps({**known, "settings": {"value_range": [0, 4095]}}).encode()


def _attributes(folder: pathlib.Path) -> Iterator[bytes]:
    _celebamask_hq(folder)
    yield b"2\nBald Young\n0.jpg  1 -1\n1.jpg -1  1\n"


def _mappings(folder: pathlib.Path) -> Iterator[bytes]:
    _celebamask_hq(folder)
    yield b"idx orig_idx orig_file\n0  119613  119614.jpg\n1  202599 202600.jpg\n"


def _celebamask_hq(folder: pathlib.Path) -> None:
    pictures = folder.parent / "CelebA-HQ-img"
    pictures.mkdir()
    for name in ("0.jpg", "1.jpg"):
        (pictures / name).touch()


def _read_preparation(path: pathlib.Path) -> None:
    data = DataConfig(name="set", data_dir=str(path.parents[3]))
    config = Config(model=ModelConfig(image_shape=(8, 8, 1)), data=data)
    catalog.resolve(config)
    catalog.value_range(dataclasses.replace(config.data, name="set/8_grey"))


def _read_celebamask_hq(path: pathlib.Path) -> None:
    source = faces.open_celebamask_hq(path.parent)
    for name in source.files:
        source.split(name)
        for table in source.labels.values():
            table.row(name)


READERS = {
    "labels": Reader(_label_files, _read_labels),
    "boxes": Reader(_box_files, lambda path: tables.read_boxes(path, _FILES)),
    "attributes": Reader(_attributes, _read_celebamask_hq, "CelebAMask-HQ-attribute-anno.txt"),
    "mapping": Reader(_mappings, _read_celebamask_hq, "CelebA-HQ-to-CelebA-mapping.txt"),
    "zip": Reader(_zips, _read_archive),
    "tar": Reader(_tars, _read_archive, complete=_with_tar_checksums),
    "compressed-tar": Reader(_compressed_tars, _read_archive),
    "picture": Reader(_pictures, _read_picture, complete=_with_png_checksums),
    "record": Reader(_records, _read_record),
    "preparation": Reader(_preparations, _read_preparation, _PREPARED, mutations.of_json),
}
