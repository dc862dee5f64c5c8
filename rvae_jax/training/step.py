"""The training step: one pure function that updates both players.

The caller jits it over global arrays, or pmaps or shard_maps it with the networks' ``axis_name`` set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from rvae_jax import losses
from rvae_jax.models import VAE, AnyDiscriminator, seen_by_discriminator
from rvae_jax.training import adversary, gradient_lengths, perceptual
from rvae_jax.training.code_terms import Draws, Terms, code_terms, make_draws
from rvae_jax.training.draws import rows_of_batch
from rvae_jax.training.objective import term_weights, vae_terms
from rvae_jax.training.state import Player, TrainState

if TYPE_CHECKING:
    from rvae_jax.config import LossConfig
    from rvae_jax.models.features import FeatureWeights

Metrics = dict[str, jax.Array]
Frozen = dict[str, "FeatureWeights"]  # by the network's name
Codes = tuple[jax.Array, jax.Array]  # means and log variances, [b, d] each
TrainStep = Callable[..., tuple[TrainState, Metrics]]

# From the codes and their draws to the terms of the codes and the running statistics after the batch.
CodeTerms = Callable[[jax.Array, jax.Array, Draws], tuple[Terms, dict[str, Any]]]

# What the loss of a step returns besides its value: metrics, the norms' new statistics by player, codes, and the
# running statistics.
_Aux = tuple[Metrics, dict[str, Any], Codes, dict[str, Any]]


def make_train_step(
    vae: VAE,
    discriminator: AnyDiscriminator | None,
    optimizer: optax.GradientTransformation,
    loss: LossConfig,
    *,
    ema_decay: float | None = None,
    accumulate_steps: int = 1,
    discriminator_pace: float = 1.0,
) -> TrainStep:
    """Builds ``train_step(state, images, key, frozen=None) -> (state, metrics)``.

    One pass through the VAE serves both players. Both gradients are taken at the same weights; then both updates are
    applied. The VAE's loss has no gradient in the discriminator's weights, and the discriminator's none in the VAE's.

    With ``axis_name`` set on the networks, ``images`` is one device's part of the batch, and state and metrics come out
    equal on all devices. However the batch is laid out, an image at the same place in it meets the same noise.

    With ``accumulate_steps`` k > 1 the step needs the memory of a k-th of the batch. The encoder first goes over all
    parts, and the terms of the codes are computed from the codes of the whole batch, with their gradient in these.
    Then each part's gradient is taken, with that gradient in its codes; the mean over the parts is the gradient of the
    whole batch, up to rounding. It is exact for frozen norms only: the statistics of batch norm would be those of the
    parts.

    Args:
      vae: the VAE.
      discriminator: the discriminator, or None without adversarial loss; one that the state has is then left as it is.
      optimizer: applied to each player with its own state.
      loss: kinds, weights and ramps of the terms; the ramps in steps (``config.in_steps``), not as shares of a run.
      ema_decay: decay d of the average of the VAE's weights, or None; at step t it is min(d, (1 + t) / (10 + t)).
      accumulate_steps: number of equal parts of a device's batch, which are processed one after the other.
      discriminator_pace: factor of the discriminator's updates.

    Returns:
      The step. ``images`` is ``[b, H, W, C]`` in [-1, 1]; ``key`` is the run's random key, the same at every step (the
      step folds its number in); ``frozen`` are the weights of the networks that the loss looks through, by name.
      ``metrics`` are float32 scalars of this batch; docs/metrics.md lists them.

    Raises:
      ValueError: ``accumulate_steps`` is above 1 and norms are in ``batch`` mode, or the reconstruction's scale is
        that of the batch.
    """
    axis_name = vae.axis_name
    if accumulate_steps > 1 and vae.config.norm == "batch":
        raise ValueError(f"make_train_step: accumulate_steps={accumulate_steps} is exact with norm='frozen' only")
    if accumulate_steps > 1 and loss.reconstruction in ("gaussian", "laplace"):
        raise ValueError(
            f"make_train_step: accumulate_steps={accumulate_steps} is exact with reconstruction='l1' or 'l2' only"
        )

    def train_step(
        state: TrainState, images: jax.Array, key: jax.Array, frozen: Frozen | None = None
    ) -> tuple[TrainState, Metrics]:
        step_key, latent_dim = jax.random.fold_in(key, state.step), vae.config.latent_dim
        noise = rows_of_batch(jax.random.normal, step_key, (images.shape[0], latent_dim), axis_name)
        draws = make_draws(loss, step_key, noise, axis_name) | perceptual.make_draws(loss, step_key, images, axis_name)
        draws |= adversary.make_draws(loss, step_key, images, latent_dim, axis_name)
        trained = {name: player for name, player in state.players.items() if name == "vae" or discriminator is not None}
        params = {name: player.params for name, player in trained.items()}
        if loss.adaptive_weight:
            params["lengths"] = gradient_lengths.first_lengths()
        terms_of = functools.partial(code_terms, loss, state.running, step_key, axis_name=axis_name)
        loss_of = functools.partial(_total_loss, vae, discriminator, loss, state, frozen)
        if accumulate_steps == 1:
            (gradients, (metrics, batch_stats, codes, running)) = jax.grad(
                functools.partial(loss_of, terms_of), has_aux=True
            )(params, images, draws)
        else:
            images, draws = jax.tree.map(lambda rows: _split(rows, accumulate_steps), (images, draws))
            codes, terms, running, slopes = _terms_of_parts(vae, loss, state, terms_of, images, draws)
            of_part = functools.partial(loss_of, lambda *_: (terms, running))
            gradients, metrics = _accumulate(of_part, params, (images, draws, slopes))
            batch_stats = {name: player.batch_stats for name, player in trained.items()}
        if axis_name is not None:
            gradients, metrics = jax.lax.pmean((gradients, metrics), axis_name)
        statistics = losses.latent_statistics(*codes, axis_name=axis_name)
        metrics |= {f"latent/{name}": value.astype(jnp.float32) for name, value in statistics._asdict().items()}
        players = {}
        for name, player in trained.items():
            metrics[f"gradient_norm/{name}"] = optax.tree.norm(gradients[name])
            pace = discriminator_pace if name == "discriminator" else 1.0
            players[name] = _update(player, gradients[name], batch_stats[name], optimizer, pace)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = _average(ema_params, players["vae"].params, ema_decay, state.step)
        if discriminator is not None:
            running = adversary.next_running(running, gradients, metrics)
        return state.replace(step=state.step + 1, ema_params=ema_params, running=running, **players), metrics

    return train_step


def _total_loss(
    vae: VAE,
    discriminator: AnyDiscriminator | None,
    loss: LossConfig,
    state: TrainState,
    frozen: Frozen | None,
    terms_of: CodeTerms,
    params: dict[str, Any],
    images: jax.Array,
    draws: Draws,
    slopes: Codes | None = None,
) -> tuple[jax.Array, _Aux]:
    """The sum of both players' losses; they share no weight through which a gradient could pass.

    Where the terms of the codes are known already, ``slopes`` is their gradient in these codes.
    """
    axis_name, weights = vae.axis_name, term_weights(loss, state.step)
    variables = {"params": params["vae"], "batch_stats": state.vae.batch_stats}
    result, fakes, updates = adversary.run_vae(vae, variables, images, draws["noise"], draws)
    batch_stats = {"vae": updates.get("batch_stats", {})}
    if loss.adaptive_weight:
        factor = gradient_lengths.adaptive_factor(loss, state.running["adversarial_ratio"])
        weights["adversarial"] *= factor
        x_hat, fakes = gradient_lengths.measure(fakes, params["lengths"], weights["adversarial"])
        result = result._replace(x_hat=x_hat)
    codes = result.mean, result.log_var
    of_codes, running = terms_of(*codes, draws)
    shown, *fakes = [_as_shown(each) if loss.clip else each for each in (result.x_hat, *fakes)]
    alike = perceptual.perceptual_terms(loss, frozen, shown, images, draws)
    total, terms = vae_terms(loss, weights, result, images, alike | of_codes, axis_name)
    metrics = {"loss/total": total}
    if discriminator is not None:
        see = functools.partial(seen_by_discriminator, vae.config, frozen)
        adversarial, of_discriminator, batch_stats["discriminator"] = adversary.play(
            discriminator, loss, state, params["discriminator"], see, images, fakes, draws
        )
        metrics |= of_discriminator
        if loss.adaptive_weight:
            metrics["discriminator/adaptive_weight"] = factor
            total += adversarial["adversarial"]  # its gradient meets the weight where it was measured
        else:
            total += weights["adversarial"] * adversarial["adversarial"]
        metrics["loss/total"] += weights["adversarial"] * adversarial["adversarial"]
        for name in adversary.OF_DISCRIMINATOR:
            if name in adversarial:
                total += weights[name] * adversarial[name]
        terms |= adversarial
    metrics |= {f"loss/{name}": term for name, term in terms.items()}
    metrics |= {f"weighted/{name}": weights[name] * term for name, term in terms.items()}
    if axis_name is not None:
        total = jax.lax.pmean(total, axis_name)
    if slopes is not None:
        # Not averaged over the devices: each one's codes are a part of the batch, of which the terms are a function.
        linear = sum(jnp.vdot(*pair) for pair in zip(slopes, codes, strict=True))
        total += linear - jax.lax.stop_gradient(linear)
    return total, (metrics, batch_stats, codes, running)


def _terms_of_parts(
    vae: VAE, loss: LossConfig, state: TrainState, terms_of: CodeTerms, images: jax.Array, draws: Draws
) -> tuple[Codes, Terms, dict[str, Any], Codes]:
    """Codes of all parts ``[k, b / k, ...]``, the terms of them all, and what ``_total_loss`` needs of each part.

    Returns:
      Codes ``[b, d]``, terms, running statistics, and slopes ``[k, b / k, d]``: k times the gradient of the terms'
      weighted sum in the codes, since the gradients of the parts are averaged.
    """
    encode = functools.partial(vae.apply, state.vae.variables, method="encode")
    codes, draws = jax.tree.map(lambda parts: parts.reshape(-1, *parts.shape[2:]), (jax.lax.map(encode, images), draws))
    weights = term_weights(loss, state.step)

    def total(codes: Codes) -> tuple[jax.Array, tuple[Terms, dict[str, Any]]]:
        terms, running = terms_of(*codes, draws)
        weighted = sum(weights[name] * term for name, term in terms.items())
        return weighted if vae.axis_name is None else jax.lax.pmean(weighted, vae.axis_name), (terms, running)

    gradient, (terms, running) = jax.grad(total, has_aux=True)(codes)
    count = len(images)
    return codes, terms, running, jax.tree.map(lambda rows: count * rows.reshape(count, -1, rows.shape[-1]), gradient)


def _accumulate(
    loss_of: Callable[..., tuple[jax.Array, _Aux]], params: dict[str, Any], parts: tuple[Any, ...]
) -> tuple[Any, Metrics]:
    """Mean over the parts of the gradient of ``loss_of`` and of its metrics, one part at a time."""

    def one(part: tuple[Any, ...]) -> tuple[Any, Metrics]:
        gradients, (metrics, *_) = jax.grad(loss_of, has_aux=True)(params, *part)
        return gradients, metrics

    def add(total: Any, part: tuple[Any, ...]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(part)), None

    shapes = jax.eval_shape(one, jax.tree.map(lambda part: part[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda leaf: leaf / len(parts[0]), total)


def _update(
    player: Player, gradients: Any, batch_stats: Any, optimizer: optax.GradientTransformation, pace: float
) -> Player:
    updates, opt_state = optimizer.update(gradients, player.opt_state, player.params)
    if pace != 1.0:
        updates = jax.tree.map(lambda update: pace * update, updates)
    return Player(optax.apply_updates(player.params, updates), batch_stats, opt_state)


def _as_shown(images: jax.Array) -> jax.Array:
    """Images clipped to [-1, 1], with the gradient of the images themselves."""
    return images + jax.lax.stop_gradient(jnp.clip(images, -1.0, 1.0) - images)


def _average(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """The exponential moving average after one more step; in the first steps its decay is lower."""
    step = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - decay)


def _split(batch: jax.Array, parts: int) -> jax.Array:
    """``[b, ...] -> [parts, b / parts, ...]``; a part has every parts-th row, so that devices keep their own rows."""
    return jnp.moveaxis(batch.reshape(-1, parts, *batch.shape[1:]), 1, 0)
