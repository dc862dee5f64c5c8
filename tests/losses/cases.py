"""Every function of the losses that computes on arrays: ours, its formula in NumPy or SciPy, and its arguments."""

from image_cases import ADVERSARIAL, RECONSTRUCTIONS
from kl_cases import DIVERGENCES, MIXTURES, OBJECTIVES, RELATIVES
from moment_cases import MOMENTS, STATISTICS

CASES = RECONSTRUCTIONS | DIVERGENCES | MIXTURES | MOMENTS | OBJECTIVES | RELATIVES | ADVERSARIAL | STATISTICS
