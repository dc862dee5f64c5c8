"""The objective of "How to train your VAE", related objectives, and diagnostics of the codes.

Pure functions of arrays that need only JAX: jit, differentiate, vmap, pmap or shard_map them. Every function accepts
any float type and computes in at least float32; first states of averages are float32, or float64 with
``jax_enable_x64``. A term of single images has the shape ``[b]``, one value per image, and the caller reduces it over
the batch. KL terms are in nats per image. If shapes do not match, a ``ValueError`` names them; nothing broadcasts
silently. Source of the method: M. Rivera, "How to train your VAE", ICIP 2024 (arXiv 2309.13160), and its released code;
docs/objective.md derives it.

A function that computes a statistic of the batch has an ``axis_name``. Inside ``pmap``, ``shard_map`` or ``vmap``, pass
the mapped axis, and the statistic is that of the global batch. The gradients are then right if the caller also averages
the loss inside the differentiated function, and averages the gradients::

    def loss(weights, images):
        ...
        return jax.lax.pmean(total, "batch")

    gradients = jax.lax.pmean(jax.grad(loss)(weights, images), "batch")

Under ``jit`` with global arrays there is nothing to average, and ``axis_name`` stays None.

An empty batch and complex numbers raise a ``ValueError``. A number that is not finite (NaN, or infinite) makes what
is computed from it not finite: no guard or comparison hides it.

Range: values and gradients are finite for ``|mean| <= 1e15``, any finite ``log_var``, ``|logits| <= 1e30`` and images
up to 1e8. Guards ensure this. A guard limits the value, while the gradient is the one at the limit, so that it still
points back to the ordinary range:

* ``log v`` of a population variance is ``log max(v, VARIANCE_FLOOR)``, with gradient ``1 / max(v, VARIANCE_FLOOR)``;
* ``log_var`` is replaced by ``clip(log_var, LOG_VAR_MIN, LOG_VAR_MAX)``, with gradient one; in densities and scales, a
  variance is at least ``VARIANCE_FLOOR``;
* covariances and logits, which are squared once more, are clipped to 1e15 in size, with gradient one.

``population_shape``, a diagnostic, clips standardised codes to 1e5 in size.
"""

from rvae_jax.losses._arrays import LOG_VAR_MAX, LOG_VAR_MIN, VARIANCE_FLOOR
from rvae_jax.losses.adversarial import (
    DECISION_THRESHOLD,
    AdversarialKind,
    LeCamAnchors,
    adaptive_generator_weight,
    discriminator_loss,
    fake_loss,
    generator_loss,
    init_lecam_anchors,
    lecam_penalty,
    r1_penalty,
    ramp,
)
from rvae_jax.losses.diagnostics import (
    ACTIVE_UNIT_VARIANCE,
    LatentStatistics,
    PopulationShape,
    active_units,
    latent_statistics,
    population_shape,
)
from rvae_jax.losses.elbo import MixtureELBO, MomentsKind, beta_vae, mixture_elbo
from rvae_jax.losses.kl import (
    gaussian_kl,
    gaussian_total_correlation,
    kl_by_dimension,
    population_kl,
    small_batch_bias,
    variance_regularizer,
)
from rvae_jax.losses.mixture import KLDecomposition, Weighting, kl_decomposition, mixture_kl, mutual_information
from rvae_jax.losses.moments import (
    CovarianceMoments,
    Moments,
    batch_covariance,
    batch_moments,
    combine_moments,
    correlation_shrinkage,
    shrink_covariance,
)
from rvae_jax.losses.reconstruction import (
    ImageDistance,
    LikelihoodKind,
    gaussian_nll,
    l1_reconstruction,
    l1_sum,
    l2_reconstruction,
    l2_sum,
    laplace_nll,
    optimal_log_scale,
    perceptual_reconstruction,
)
from rvae_jax.losses.relatives import IMQ_SCALES, DIPPenalty, batch_norm_kl_bound, dip_penalty, free_bits_kl, imq_mmd
from rvae_jax.losses.running_moments import (
    MeansQueue,
    MomentsAverage,
    anchored_moments,
    codes_in_average,
    init_means_queue,
    init_moments_average,
    queue_moments,
    update_means_queue,
    update_moments_average,
)
from rvae_jax.losses.sliced import random_directions, sliced_normality

__all__ = [
    "ACTIVE_UNIT_VARIANCE",
    "DECISION_THRESHOLD",
    "IMQ_SCALES",
    "LOG_VAR_MAX",
    "LOG_VAR_MIN",
    "VARIANCE_FLOOR",
    "AdversarialKind",
    "CovarianceMoments",
    "DIPPenalty",
    "ImageDistance",
    "KLDecomposition",
    "LatentStatistics",
    "LeCamAnchors",
    "LikelihoodKind",
    "MeansQueue",
    "MixtureELBO",
    "Moments",
    "MomentsAverage",
    "MomentsKind",
    "PopulationShape",
    "Weighting",
    "active_units",
    "adaptive_generator_weight",
    "anchored_moments",
    "batch_covariance",
    "batch_moments",
    "batch_norm_kl_bound",
    "beta_vae",
    "codes_in_average",
    "combine_moments",
    "correlation_shrinkage",
    "dip_penalty",
    "discriminator_loss",
    "fake_loss",
    "free_bits_kl",
    "gaussian_kl",
    "gaussian_nll",
    "gaussian_total_correlation",
    "generator_loss",
    "imq_mmd",
    "init_lecam_anchors",
    "init_means_queue",
    "init_moments_average",
    "kl_by_dimension",
    "kl_decomposition",
    "l1_reconstruction",
    "l1_sum",
    "l2_reconstruction",
    "l2_sum",
    "laplace_nll",
    "latent_statistics",
    "lecam_penalty",
    "mixture_elbo",
    "mixture_kl",
    "mutual_information",
    "optimal_log_scale",
    "perceptual_reconstruction",
    "population_kl",
    "population_shape",
    "queue_moments",
    "r1_penalty",
    "ramp",
    "random_directions",
    "shrink_covariance",
    "sliced_normality",
    "small_batch_bias",
    "update_means_queue",
    "update_moments_average",
    "variance_regularizer",
]
