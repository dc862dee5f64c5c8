"""Residual VAE-GAN with the mixture-posterior objective of "How to train your VAE", in JAX and Flax."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Loading a run needs Orbax and more; `import rvae_jax.losses` must need JAX alone.
    if name == "load":
        try:
            from rvae_jax.inference.trained_vae import load
        except ModuleNotFoundError as error:
            from rvae_jax.errors import install

            raise ImportError(f"rvae_jax.load needs {error.name}; {install('train')}") from error
        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
