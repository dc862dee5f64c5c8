"""Draws the figures of docs/objective.md: python docs/plot_objective.py."""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import BoundaryNorm

from rvae_jax import losses

IMAGES = pathlib.Path(__file__).parent / "images"
BATCH_SIZES = (4, 6, 10, 16, 32, 64, 128, 256)
DIMENSIONS, STEPS, DECAY, QUEUE = 4096, 300, 0.9, 1024
LEVELS = [0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 4]


@jax.jit(static_argnums=0)
def excess(batch_size: int) -> jax.Array:
    """Mean KL a dimension of codes from N(0, 1), whose KL is 0: by batch, average and queue, after ``STEPS`` steps."""

    def step(states: tuple, key: jax.Array) -> tuple[tuple, None]:
        average, queue, _ = states
        mean = jax.random.normal(key, (batch_size, DIMENSIONS))
        moments = losses.batch_moments(mean)
        average = losses.update_moments_average(average, moments, decay=DECAY)
        return (average, losses.update_means_queue(queue, mean), moments), None

    zeros = jnp.zeros(DIMENSIONS)
    states = losses.init_moments_average(DIMENSIONS), losses.init_means_queue(QUEUE, DIMENSIONS)
    states = (*states, losses.Moments(zeros, zeros))
    (average, queue, moments), _ = jax.lax.scan(step, states, jax.random.split(jax.random.key(0), STEPS))
    estimates = moments, average.moments, losses.queue_moments(queue)
    return jnp.stack([losses.population_kl(estimate) for estimate in estimates]) / DIMENSIONS


def plot_small_batch_bias(path: pathlib.Path) -> None:
    """Excess of the population KL over the batch size, by formula and by simulation."""
    simulated = np.stack([excess(size) for size in BATCH_SIZES])
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    curve = [losses.small_batch_bias(size) for size in range(3, 300)]
    axes.loglog(range(3, 300), curve, color="black", linewidth=1, label="c(N), the formula")
    labels = ("moments of the batch", f"average, decay {DECAY}", f"queue of {QUEUE} means")
    for label, marker, values in zip(labels, "o^s", simulated.T, strict=True):
        axes.plot(BATCH_SIZES, values, marker, label=label)
    axes.set(xlabel="images in a batch, N", ylabel="excess, nats a dimension", ylim=(1e-4, 1))
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)


def plot_pull(path: pathlib.Path) -> None:
    """Where the two KL terms pull one dimension: their sum over Var(mean) and s, for three choices."""
    regimes = {
        "means, t = 1 (released)": ("means", 1.0),
        "mixture, t = 1": ("mixture", 1.0),
        "mixture, t = 0.1": ("mixture", 0.1),
    }
    var, s = np.meshgrid(np.linspace(1e-3, 1.6, 200), np.geomspace(0.01, 2, 200))

    def kl_terms(var: jax.Array, s: jax.Array, kind: str, target: float) -> jax.Array:
        mean = jnp.sqrt(var) * jnp.array([[-1.0], [1.0]])
        log_var = jnp.full_like(mean, jnp.log(s))
        terms = losses.mixture_elbo(jnp.zeros(2), mean, log_var, moments=kind, variance_target=target)
        return terms.total

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, (title, (kind, target)) in zip(axes, regimes.items(), strict=True):
        terms = jax.vmap(lambda v, s, kind=kind, target=target: kl_terms(v, s, kind, target))
        values = np.asarray(terms(var.ravel(), s.ravel())).reshape(var.shape)
        drawn = axis.contourf(var, s, values, LEVELS, norm=BoundaryNorm(LEVELS, 256), cmap="viridis_r")
        zero = {"means": (1.0, 1.0), "mixture": (1 - target, target)}[kind]
        axis.plot(*zero, "r*", markersize=14, clip_on=False, label="zero")
        axis.set(title=title, xlabel="Var(mean)", yscale="log", xlim=(-0.05, 1.6))
    axes[0].set_ylabel("s, variance of one posterior")
    axes[0].legend(loc="lower left")
    figure.colorbar(drawn, label="nats a dimension")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    plot_small_batch_bias(IMAGES / "small_batch_bias.png")
    plot_pull(IMAGES / "kl_terms.png")
