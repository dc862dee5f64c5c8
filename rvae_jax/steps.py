"""The training step: one pure function that updates both players.

The caller jits it over global arrays, or pmaps or shard_maps it with the networks' ``axis_name`` set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from rvae_jax import losses
from rvae_jax.models import VAE, Discriminator, Reconstruction
from rvae_jax.train_state import Player, TrainState

if TYPE_CHECKING:
    from rvae_jax.config import LossConfig

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]


def make_train_step(
    vae: VAE,
    discriminator: Discriminator | None,
    optimizer: optax.GradientTransformation,
    loss: LossConfig,
    *,
    ema_decay: float | None = None,
) -> TrainStep:
    """Builds ``train_step(state, images, key) -> (state, metrics)``.

    One pass through the VAE serves both players. Both gradients are taken at the same weights; then both updates are
    applied. The VAE's loss has no gradient in the discriminator's weights, and the discriminator's none in the VAE's.

    With ``axis_name`` set on the networks, ``images`` is one device's part of the batch, and state and metrics come out
    equal on all devices.

    Args:
      vae: the VAE.
      discriminator: the discriminator, or None without adversarial loss.
      optimizer: applied to each player with its own state.
      loss: kinds, weights and ramps of the terms.
      ema_decay: decay d of the average of the VAE's weights, or None; at step t it is min(d, (1 + t) / (10 + t)).

    Returns:
      The step. ``images`` is ``[b, H, W, C]`` in [-1, 1]; ``key`` is the run's random key, the same at every step (the
      step folds its number in). ``metrics`` are float32 scalars of this batch; docs/metrics.md lists them.
    """
    axis_name = vae.axis_name

    def mean(values: jax.Array) -> jax.Array:
        average = jnp.mean(values)
        return average if axis_name is None else jax.lax.pmean(average, axis_name)

    def minimum(values: jax.Array) -> jax.Array:
        least = jnp.min(values)
        return least if axis_name is None else jax.lax.pmin(least, axis_name)

    def vae_terms(result: Reconstruction, images: jax.Array) -> Metrics:
        """Loss terms of the VAE alone, unweighted."""
        terms = {"reconstruction": mean(losses.l1_reconstruction(result.x_hat, images))}
        if loss.kl == "standard":
            return terms | {"standard_kl": mean(losses.gaussian_kl(result.mean, result.log_var))}
        log_var = result.log_var if loss.moments == "mixture" else None
        moments = losses.batch_moments(result.mean, log_var, axis_name=axis_name)
        return terms | {
            "population_kl": losses.population_kl(moments),
            "variance_regularizer": mean(losses.variance_regularizer(result.log_var, target=loss.variance_target)),
        }

    def adversarial_terms(
        params: Any, batch_stats: Any, images: jax.Array, x_hat: jax.Array
    ) -> tuple[Metrics, Metrics, Any]:
        """Both players' terms, unweighted; the discriminator's accuracies; its new statistics."""

        def logits(params: Any, batch_stats: Any, images: jax.Array) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": batch_stats}
            result, updates = discriminator.apply(variables, images, train=True, mutable=["batch_stats"])
            return result, updates["batch_stats"]

        real, after_real = logits(params, batch_stats, images)
        fake, after_fake = logits(params, after_real, jax.lax.stop_gradient(x_hat))
        # The same computation as the line above, with the gradient stopped elsewhere: XLA does it once.
        fake_for_vae, _ = logits(jax.lax.stop_gradient(params), after_real, x_hat)
        terms = {
            "adversarial": mean(losses.generator_loss(fake_for_vae, kind=loss.adversarial)),
            "discriminator": mean(losses.discriminator_loss(real, fake, kind=loss.adversarial)),
        }
        threshold = losses.DECISION_THRESHOLD[loss.adversarial]
        accuracy = {
            "discriminator/accuracy_real": mean(real > threshold),
            "discriminator/accuracy_fake": mean(fake < threshold),
        }
        return terms, accuracy, after_fake

    def train_step(state: TrainState, images: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        if axis_name is not None:
            step_key = jax.random.fold_in(step_key, jax.lax.axis_index(axis_name))
        noise = jax.random.normal(step_key, (images.shape[0], vae.latent_dim))
        weights = term_weights(loss, state.step)

        def total_loss(params: dict[str, Any]) -> tuple[jax.Array, tuple[Metrics, dict[str, Any]]]:
            variables = {"params": params["vae"], "batch_stats": state.vae.batch_stats}
            result, updates = vae.apply(variables, images, noise, train=True, mutable=["batch_stats"])
            batch_stats = {"vae": updates["batch_stats"]}
            terms, metrics = vae_terms(result, images), {}
            if state.discriminator is not None:
                both, metrics, batch_stats["discriminator"] = adversarial_terms(
                    params["discriminator"], state.discriminator.batch_stats, images, result.x_hat
                )
                terms |= both
            weighted = {name: weights[name] * term for name, term in terms.items()}
            metrics |= {f"loss/{name}": term for name, term in terms.items()}
            metrics |= {f"weighted/{name}": term for name, term in weighted.items()}
            metrics["loss/total"] = sum(term for name, term in weighted.items() if name != "discriminator")
            metrics |= latent_metrics(jax.lax.stop_gradient(result))
            # The players share no weight through which a gradient could pass, so one sum gives both gradients.
            return sum(weighted.values()), (metrics, batch_stats)

        def latent_metrics(result: Reconstruction) -> Metrics:
            moments = losses.batch_moments(result.mean, axis_name=axis_name)
            sigma = jnp.exp(0.5 * result.log_var)
            return {
                "latent/active_units": losses.active_units(moments).astype(jnp.float32),
                "latent/population_mean_rms": jnp.sqrt(jnp.mean(jnp.square(moments.mean))),
                "latent/population_std": jnp.mean(jnp.sqrt(moments.var)),
                "latent/sigma_mean": mean(sigma),
                "latent/sigma_min": minimum(sigma),
            }

        players = {"vae": state.vae}
        if state.discriminator is not None:
            players["discriminator"] = state.discriminator
        params = {name: player.params for name, player in players.items()}
        gradients, (metrics, batch_stats) = jax.grad(total_loss, has_aux=True)(params)
        if axis_name is not None:
            gradients = jax.lax.pmean(gradients, axis_name)
        for name, player in players.items():
            metrics[f"gradient_norm/{name}"] = optax.tree.norm(gradients[name])
            players[name] = _update(player, gradients[name], batch_stats[name], optimizer)
        ema_params = state.ema_params
        if ema_params is not None:
            step = state.step.astype(jnp.float32)
            decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
            ema_params = optax.incremental_update(players["vae"].params, ema_params, 1.0 - decay)
        return state.replace(step=state.step + 1, ema_params=ema_params, **players), metrics

    return train_step


def term_weights(loss: LossConfig, step: jax.Array) -> dict[str, jax.Array]:
    """Weight of every term at a step, by the term's name; the discriminator's own loss has no ramp."""
    kl = losses.ramp(step, loss.kl_start_step, loss.kl_ramp_steps)
    adversarial = losses.ramp(step, loss.adversarial_start_step, loss.adversarial_ramp_steps)
    return {
        "reconstruction": jnp.float32(loss.reconstruction_weight),
        "standard_kl": loss.beta * kl,
        "population_kl": loss.population_weight * kl,
        "variance_regularizer": loss.variance_weight * kl,
        "adversarial": loss.adversarial_weight * adversarial,
        "discriminator": jnp.float32(loss.adversarial_weight),
    }


def _update(player: Player, gradients: Any, batch_stats: Any, optimizer: optax.GradientTransformation) -> Player:
    updates, opt_state = optimizer.update(gradients, player.opt_state, player.params)
    return Player(optax.apply_updates(player.params, updates), batch_stats, opt_state)
