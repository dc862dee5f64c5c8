"""Every function of the losses that computes on arrays: ours, its formula in NumPy or SciPy, and its arguments."""

from image_cases import ADVERSARIAL, RECONSTRUCTIONS
from kl_cases import DIVERGENCES, MIXTURES, OBJECTIVES, RELATIVES
from moment_cases import MOMENTS, STATISTICS

CASES = RECONSTRUCTIONS | DIVERGENCES | MIXTURES | MOMENTS | OBJECTIVES | RELATIVES | ADVERSARIAL | STATISTICS

# Functions of numbers instead of arrays: empty states, with which the cases of their updates begin, and others.
NO_ARRAYS = {
    "init_lecam_anchors",
    "init_means_queue",
    "init_moments_average",
    "ramp",
    "random_directions",
    "small_batch_bias",
}
