"""Finds faces, so that only they are cut out of photographs. Needs scikit-image, which contains the detector.

    pip install -e '.[train,faces]'
    python -m rvae_jax.prepare ~/photos --name=faces --size 64 --detector=examples.face_detector:find --margin=0.2

It knows upright faces seen from the front; for others take another detector of this form.
"""

import numpy as np
from skimage import data, feature

_cascade = feature.Cascade(data.lbp_frontal_face_cascade_filename())


def find(image: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Faces in an RGB image ``[h, w, 3]``, from an eighth of its shorter side on, as (left, top, width, height)."""
    side = min(image.shape[:2])
    smallest = (max(side // 8, 24), max(side // 8, 24))  # the cascade's own window is 24 pixels
    found = _cascade.detect_multi_scale(image, scale_factor=1.2, step_ratio=1, min_size=smallest, max_size=(side, side))
    return [(face["c"], face["r"], face["width"], face["height"]) for face in found]
