"""The losses of the VAE-GAN's two players, and terms that stabilise the game. Every loss is a mean over patches."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rvae_jax.losses import _arrays

AdversarialKind = Literal["bce", "hinge", "least_squares"]

# The logit above which the discriminator classifies an image as real.
DECISION_THRESHOLD = {"bce": 0.0, "hinge": 0.0, "least_squares": 0.5}


class LeCamAnchors(NamedTuple):
    """Exponential averages of the logits, for ``lecam_penalty``.

    Attributes:
      real: scalar, of images.
      fake: scalar, of reconstructions.
      weight: scalar, ``1 - decay^t`` after t batches.
    """

    real: jax.Array
    fake: jax.Array
    weight: jax.Array


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array, *, kind: AdversarialKind = "bce") -> jax.Array:
    """The discriminator's loss: the real term plus the fake term, each a mean over patches, not halved.

    * ``bce``: ``softplus(-real) + softplus(fake)``, i.e. BCE-with-logits against 1 and 0 (Goodfellow et al., 2014);
    * ``hinge``: ``max(0, 1 - real) + max(0, 1 + fake)`` (Lim and Ye, 2017);
    * ``least_squares``: ``(real - 1)^2 + fake^2`` (Mao et al., 2017; the paper halves it); logits are clipped to 1e15
      in size.

    Args:
      real_logits: logits of images, ``[b, ...]``, one per patch.
      fake_logits: logits of reconstructions, of the same shape.
      kind: ``bce``, ``hinge`` or ``least_squares``.

    Returns:
      ``[b]``, in nats for ``bce``, 0 or more.

    Raises:
      ValueError: the shapes differ, have no batch axis, or ``kind`` is unknown.
    """
    _arrays.require_same_shape("discriminator_loss", real_logits=real_logits, fake_logits=fake_logits)
    _arrays.require_batch_axis("discriminator_loss", real_logits=real_logits)
    real = _arrays.at_least_float32(real_logits)
    match kind:
        case "bce":
            real_term = jax.nn.softplus(-real)
        case "hinge":
            real_term = jax.nn.relu(1.0 - real)
        case "least_squares":
            real_term = _arrays.guarded_square(real - 1.0)
        case _:
            raise ValueError(f"discriminator_loss: kind is {kind!r}, expected 'bce', 'hinge' or 'least_squares'")
    return _arrays.mean_over_rest("discriminator_loss", real_term + _fake_term("discriminator_loss", fake_logits, kind))


def fake_loss(fake_logits: jax.Array, *, kind: AdversarialKind = "bce") -> jax.Array:
    """The fake term of ``discriminator_loss`` alone, a mean over patches, for fakes of more than one kind.

    Args:
      fake_logits: logits of reconstructions or of samples, ``[b, ...]``, one per patch.
      kind: ``bce``, ``hinge`` or ``least_squares``.

    Returns:
      ``[b]``, in nats for ``bce``, 0 or more.

    Raises:
      ValueError: there is no batch axis, or ``kind`` is unknown.
    """
    _arrays.require_batch_axis("fake_loss", fake_logits=fake_logits)
    return _arrays.mean_over_rest("fake_loss", _fake_term("fake_loss", fake_logits, kind))


def _fake_term(function: str, fake_logits: jax.Array, kind: AdversarialKind) -> jax.Array:
    fake = _arrays.at_least_float32(fake_logits)
    match kind:
        case "bce":
            return jax.nn.softplus(fake)
        case "hinge":
            return jax.nn.relu(1.0 + fake)
        case "least_squares":
            return _arrays.guarded_square(fake)
        case _:
            raise ValueError(f"{function}: kind is {kind!r}, expected 'bce', 'hinge' or 'least_squares'")


def generator_loss(fake_logits: jax.Array, *, kind: AdversarialKind = "bce") -> jax.Array:
    """The VAE's loss against the discriminator, a mean over patches.

    * ``bce``: ``softplus(-fake)``, the non-saturating form (Goodfellow et al., 2014);
    * ``hinge``: ``-fake`` (Lim and Ye, 2017);
    * ``least_squares``: ``(fake - 1)^2`` (Mao et al., 2017; the paper halves it).

    Args:
      fake_logits: logits of reconstructions, ``[b, ...]``, one per patch.
      kind: ``bce``, ``hinge`` or ``least_squares``.

    Returns:
      ``[b]``, in nats for ``bce``.

    Raises:
      ValueError: there is no batch axis, or ``kind`` is unknown.
    """
    _arrays.require_batch_axis("generator_loss", fake_logits=fake_logits)
    fake = _arrays.at_least_float32(fake_logits)
    match kind:
        case "bce":
            term = jax.nn.softplus(-fake)
        case "hinge":
            term = -fake
        case "least_squares":
            term = _arrays.guarded_square(fake - 1.0)
        case _:
            raise ValueError(f"generator_loss: kind is {kind!r}, expected 'bce', 'hinge' or 'least_squares'")
    return _arrays.mean_over_rest("generator_loss", term)


def r1_penalty(discriminator: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """Squared gradient of the discriminator at real images, ``|d D(x_i) / d x_i|^2``, D the mean logit over patches.

    R1 (Mescheder et al., 2018); its weight there is gamma/2. Implementations that differentiate the sum over P patches
    give P^2 times this value. At fakes instead of images it is R2.

    Args:
      discriminator: ``images -> logits``, ``[b, h, w, c] -> [b, ...]``. The logits of an image must depend on this
        image alone; with batch statistics, the gradient would include other images' logits.
      images: ``[b, h, w, c]``.

    Returns:
      ``[b]``, squared logits per squared unit of the images, 0 or more; differentiable in the discriminator's weights.

    Raises:
      ValueError: ``images`` has no batch axis, or the logits' batch is not that of the images.
    """
    _arrays.require_batch_axis("r1_penalty", images=images)
    images = _arrays.at_least_float32(images)

    def summed(images: jax.Array) -> jax.Array:
        logits = _arrays.mean_over_rest("r1_penalty", _arrays.at_least_float32(discriminator(images)))
        _arrays.require_shape("r1_penalty", "the mean of discriminator(images) over patches", logits, images.shape[:1])
        return jnp.sum(logits)

    return _arrays.sum_over_rest("r1_penalty", _arrays.guarded_square(jax.grad(summed)(images)))


def init_lecam_anchors() -> LeCamAnchors:
    """Anchors before the first batch, in JAX's default float type."""
    return LeCamAnchors(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


def lecam_penalty(
    real_logits: jax.Array,
    fake_logits: jax.Array,
    anchors: LeCamAnchors,
    *,
    decay: float,
    axis_name: str | None = None,
) -> tuple[jax.Array, LeCamAnchors]:
    """Pulls real logits to the fakes' average and fake logits to the reals', ``(real - a_F)^2 + (fake - a_R)^2``.

    LeCam regularisation (Tseng et al., 2021), for discriminators that see little data. The anchors are updated with
    this batch before they are used, and have no gradient. The averages are debiased, so the initial zeros have no
    weight. The released code applies relu before squaring; the paper does not.

    Args:
      real_logits: logits of images, ``[b, ...]``, one per patch; clipped to 1e15 in size.
      fake_logits: logits of reconstructions, of the same shape.
      anchors: state of the training loop, from ``init_lecam_anchors``; equal on all devices.
      decay: of the averages, in [0, 1); the released code uses 0.9 and 0.99.
      axis_name: mapped axis over which the batch is split into equal parts. The anchors are then those of the global
        batch and equal on all devices; without it, those of different devices drift apart.

    Returns:
      The penalty, ``[b]``, squared logits, a mean over patches; and the new anchors, without gradient.

    Raises:
      ValueError: the shapes differ, have no batch axis, the anchors are not scalars, or ``decay`` is not in [0, 1).
    """
    _arrays.require_same_shape("lecam_penalty", real_logits=real_logits, fake_logits=fake_logits)
    _arrays.require_rank("lecam_penalty", 0, **anchors._asdict())
    _arrays.require_decay("lecam_penalty", decay)
    anchors = LeCamAnchors(*map(_arrays.at_least_float32, anchors))
    real, fake = (
        _arrays.guard(_arrays.at_least_float32(logits), -_arrays.SQUARE_MAX, _arrays.SQUARE_MAX)
        for logits in (real_logits, fake_logits)
    )
    weight = decay * anchors.weight + (1.0 - decay)

    def average(old: jax.Array, logits: jax.Array) -> jax.Array:
        of_batch = _arrays.batch_mean(_arrays.mean_over_rest("lecam_penalty", logits), axis_name)
        return old + (1.0 - decay) / weight * (of_batch - old)

    new = jax.lax.stop_gradient(LeCamAnchors(average(anchors.real, real), average(anchors.fake, fake), weight))
    penalty = jnp.square(real - new.fake) + jnp.square(fake - new.real)
    return _arrays.mean_over_rest("lecam_penalty", penalty), new


def adaptive_generator_weight(
    reconstruction_gradient: Any,
    generator_gradient: Any,
    *,
    delta: float = 1e-6,
    maximum: float = 1e4,
    axis_name: str | None = None,
) -> jax.Array:
    """Weight that makes the generator's gradient as long as the reconstruction's.

    ``min(|g_rec| / (|g_gen| + delta), maximum)``, from VQGAN (Esser et al., 2021), which takes the gradients at the
    decoder's last layer. Their paper uses delta = 1e-6, their code 1e-4. The code also multiplies by a constant, and
    omits the term until the discriminator starts.

    Args:
      reconstruction_gradient: pytree, gradient of the mean reconstruction loss.
      generator_gradient: pytree, gradient of the mean generator loss in the same weights.
      delta: added to the length in the denominator.
      maximum: largest weight.
      axis_name: mapped axis; the gradients are averaged over it first. Without it, the weight would be that of each
        device's part of the batch, and differ between devices.

    Returns:
      A scalar without gradient, from 0 to ``maximum``.

    Raises:
      ValueError: the pytrees differ in structure or shapes.
    """
    structures = [jax.tree.structure(tree) for tree in (reconstruction_gradient, generator_gradient)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"adaptive_generator_weight: the gradients differ in structure, {structures[0]} and {structures[1]}"
        )
    jax.tree.map(
        lambda a, b: _arrays.require_same_shape(
            "adaptive_generator_weight", reconstruction_gradient=a, generator_gradient=b
        ),
        reconstruction_gradient,
        generator_gradient,
    )

    def length(gradient: Any) -> jax.Array:
        leaves = [_arrays.at_least_float32(jax.lax.stop_gradient(leaf)) for leaf in jax.tree.leaves(gradient)]
        if axis_name is not None:
            leaves = jax.lax.pmean(leaves, axis_name)
        return jnp.sqrt(sum(jnp.sum(_arrays.guarded_square(leaf)) for leaf in leaves))

    return jnp.minimum(length(reconstruction_gradient) / (length(generator_gradient) + delta), maximum)


def ramp(step: jax.Array, start: int, length: int) -> jax.Array:
    """A weight that is 0 before step ``start``, ``1 / length`` at ``start``, and rises by ``1 / length`` per step to 1.

    As the weight of ``generator_loss`` it lets the discriminator learn first, whose own loss has no ramp.

    Args:
      step: scalar, number of steps done.
      start: first step with a weight above 0.
      length: steps until the weight is 1; with 0 or 1 it is 1 from ``start`` on.

    Returns:
      A float32 scalar from 0 to 1.
    """
    done = jnp.asarray(step).astype(jnp.int32) - (start - 1)
    return jnp.clip(done.astype(jnp.float32) / max(length, 1), 0.0, 1.0)
