"""Trains a VAE-GAN of your own with the losses of rvae_jax, in plain JAX and Optax; it learns to draw discs.

python examples/reuse_losses.py [jit|pmap|shard_map]: all three compute the same, until rounding errors grow.
XLA_FLAGS=--xla_force_host_platform_device_count=8 splits a CPU into eight devices.
"""

import sys

import jax
import jax.numpy as jnp
import optax

from rvae_jax import losses

SIZE, LATENT, BATCH = 16, 4, 64
LAYERS = {"encoder": (SIZE**2, 128, 2 * LATENT), "decoder": (LATENT, 128, SIZE**2), "critic": (SIZE**2, 64, 1)}
optimizer = optax.adam(1e-3)


def init(key):
    normal, keys = jax.nn.initializers.lecun_normal(), iter(jax.random.split(key, 6))
    return {name: [normal(next(keys), sizes[i : i + 2]) for i in (0, 1)] for name, sizes in LAYERS.items()}


def network(layers, x):
    return jax.nn.gelu(x @ layers[0]) @ layers[1]


def draw(key):
    """Discs of random sizes at random places, [64, 256] in [-1, 1], and noise for their codes, [64, 4]."""
    place, size, noise = jax.random.split(key, 3)
    centre = jax.random.uniform(place, (BATCH, 2, 1, 1), minval=4, maxval=SIZE - 4)
    distance = jnp.sqrt(jnp.sum((jnp.indices((SIZE, SIZE))[None] - centre) ** 2, axis=1)).reshape(BATCH, -1)
    images = jnp.tanh(jax.random.uniform(size, (BATCH, 1), minval=2, maxval=4) - distance)
    return images, jax.random.normal(noise, (BATCH, LATENT))


def make_step(axis_name=None):
    def over_devices(tree):
        return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

    def objective(params, step, images, noise):
        mean, log_var = jnp.split(network(params["encoder"], images), 2, axis=-1)
        x_hat = network(params["decoder"], mean + jnp.exp(0.5 * log_var) * noise)
        reconstruction = losses.l1_reconstruction(x_hat, images)
        vae = losses.mixture_elbo(reconstruction, mean, log_var, reconstruction_weight=200, axis_name=axis_name)
        fixed, fake = jax.lax.stop_gradient((params["critic"], x_hat))
        generator = losses.ramp(step, 100, 100) * losses.generator_loss(network(fixed, x_hat))
        critic = losses.discriminator_loss(*(network(params["critic"], x) for x in (images, fake)))
        return over_devices(vae.total + jnp.mean(generator + critic)), vae

    def train_step(params, opt_state, step, images, noise):
        gradients, terms = jax.grad(objective, has_aux=True)(params, step, images, noise)
        updates, opt_state = optimizer.update(over_devices(gradients), opt_state)
        return optax.apply_updates(params, updates), opt_state, terms

    return train_step


def main(style="jit", steps="500"):
    mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (jax.P(), jax.P(), jax.P(), jax.P("batch"), jax.P("batch"))
    if style == "jit":
        train_step = jax.jit(make_step(), in_shardings=[jax.NamedSharding(mesh, spec) for spec in specs])
    elif style == "shard_map":
        train_step = jax.jit(jax.shard_map(make_step("batch"), mesh=mesh, in_specs=specs, out_specs=jax.P()))
    else:
        train_step = jax.pmap(make_step("batch"), "batch", in_axes=(None, None, None, 0, 0), out_axes=None)
    params, shape = init(jax.random.key(0)), (jax.device_count(), -1) if style == "pmap" else (BATCH,)
    opt_state = optimizer.init(params)
    for step in range(int(steps)):
        images, noise = (x.reshape(*shape, x.shape[-1]) for x in draw(jax.random.fold_in(jax.random.key(1), step)))
        params, opt_state, terms = train_step(params, opt_state, step, images, noise)
        if step % 50 in (0, 9):
            print(step + 1, *(f"{name} {float(term):.5g}" for name, term in terms._asdict().items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
