"""Finds faces in photographs, so that only they are cut out. Needs scikit-image, which contains the detector.

    pip install -e '.[train,faces]'
    python -m rvae_jax.prepare ~/photos --name=faces --size 64 --detector=examples.face_detector:find --margin=0.2

It finds upright faces seen from the front; for others write a detector with the same signature.
"""

import numpy as np
from skimage import data, feature

_cascade = feature.Cascade(data.lbp_frontal_face_cascade_filename())


def find(image: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Faces in an RGB image ``[h, w, 3]``, as (left, top, width, height); at least 1/8 of the shorter side in size."""
    side = min(image.shape[:2])
    smallest = (max(side // 8, 24), max(side // 8, 24))  # the window of the cascade is 24 pixels
    found = _cascade.detect_multi_scale(image, scale_factor=1.2, step_ratio=1, min_size=smallest, max_size=(side, side))
    return [(face["c"], face["r"], face["width"], face["height"]) for face in found]
