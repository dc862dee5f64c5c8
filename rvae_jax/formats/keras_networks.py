"""The networks of a weight file of the author's program, as the shapes of its tensors tell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.formats.keras_layout import DECODER, DISCRIMINATOR, ENCODER, SAMPLER

Tensors = Mapping[str, np.ndarray]


def infer(path: epath.Path, tensors: Tensors, config: Config) -> Config:
    """The configuration with the networks of a file in place of its own.

    The shapes tell all but the strides of the discriminator and, without input normalisation, the size of the images:
    these stay as the configuration has them, where they fit.

    Args:
      path: the file, for messages.
      tensors: what it holds, by name; see ``keras_layout.read_tensors``.
      config: of the new run.

    Raises:
      UserError: the layers are not those of the author's program; or they leave something open that the configuration
        does not say.
    """
    encoder, decoder = _kernels(tensors, ENCODER, "conv2d"), _kernels(tensors, DECODER, "conv2d")
    stages, odd = divmod(len(_kernels(tensors, DECODER, "conv2d_transpose")), 2)
    encoder_blocks, encoder_rest = divmod(len(encoder) - 2 - 4 * stages, 3 * max(1, stages))
    decoder_blocks, decoder_rest = divmod(len(decoder) - 2 - stages, 3 * max(1, stages))
    if not stages or odd or encoder_rest or decoder_rest or min(encoder_blocks, decoder_blocks) < 0:
        raise UserError(
            f"--weights={path}: {len(encoder)} convolutions in the encoder, {len(decoder)} and"
            f" {2 * stages + odd} transposed ones in the decoder; expected R stages of the author's program, of 4 + 3 B"
            " in the encoder and 1 + 3 D and 2 in the decoder, besides two in each"
        )
    found = {
        "model.network": "paper",
        "model.linear_path": "none",
        "model.encoder_identity_blocks": encoder_blocks,
        "model.decoder_identity_blocks": decoder_blocks,
        "model.encoder_filters": _widths(encoder, stages, 3 * encoder_blocks, 4),
        "model.decoder_filters": _widths(decoder, stages, 3 * decoder_blocks, 1),
        "model.input_norm": _input_norm(tensors) is not None,
        "model.latent_dim": np.size(tensors.get(f"{SAMPLER}/dense1/vars/1", ())),
        **_discriminator(path, tensors, config),
    }
    found["model.image_shape"] = (*_image_size(path, tensors, config, stages), encoder[0].shape[2])
    return config_lib.replace_fields(config, found)


def flags(before: Config, after: Config) -> list[str]:
    """The flags that make ``before`` to ``after``, for a shell."""

    def written(value: Any) -> str:
        return repr(value).strip("()").replace(" ", "") if isinstance(value, tuple) else str(value)

    names = config_lib.differences(before, after)
    return [f"--config.{name}={written(config_lib.get_field(after, name))}" for name in names]


def _kernels(tensors: Tensors, container: str, kind: str) -> list[np.ndarray]:
    """The kernels of a class of layers of four axes, in order."""
    found: list[np.ndarray] = []
    while True:
        kernel = tensors.get(f"{container}/layers/{kind}{f'_{len(found)}' if found else ''}/vars/0")
        if np.ndim(kernel) != 4:
            return found
        found.append(kernel)


def _widths(kernels: list[np.ndarray], stages: int, before: int, own: int) -> tuple[int, ...]:
    """Channels of the stem and after each stage, whose first ``before`` convolutions are of identity blocks."""
    firsts = [1 + stage * (before + own) + before for stage in range(stages)]
    return tuple(kernels[place].shape[3] for place in (0, *firsts))


def _input_norm(tensors: Tensors) -> np.ndarray | None:
    return tensors.get(f"{ENCODER}/layers/layer_normalization/vars/0")


def _image_size(path: epath.Path, tensors: Tensors, config: Config, stages: int) -> tuple[int, int]:
    """Height and width."""
    gamma = _input_norm(tensors)
    if gamma is not None and gamma.ndim == 2:
        return gamma.shape
    features = (*np.shape(tensors.get(f"{SAMPLER}/dense1/vars/0")), 0)[0]
    positions, factor = features // _kernels(tensors, ENCODER, "conv2d")[-1].shape[3], 2**stages
    sizes = [(factor * h, factor * (positions // h)) for h in range(1, positions + 1) if positions % h == 0]
    given = tuple(config.model.image_shape[:2])
    if given in sizes or not sizes:  # with none, the dense layer is missing, as ``keras_layout.place`` says
        return given
    if len(sizes) == 1:
        return sizes[0]
    image_channels = _kernels(tensors, ENCODER, "conv2d")[0].shape[2]
    middle = sizes[len(sizes) // 2]
    raise UserError(
        f"--weights={path} has no input normalisation, so its shapes leave the size of the images open:"
        f" {', '.join(f'{h}x{w}' for h, w in sizes)}; give --config.model.image_shape={middle[0]},{middle[1]},"
        f"{image_channels}, or another of these"
    )


def _discriminator(path: epath.Path, tensors: Tensors, config: Config) -> dict[str, Any]:
    """The fields of the discriminator, or those that are for a run without one."""
    kernels = _kernels(tensors, DISCRIMINATOR, "conv2d")
    if not kernels:
        return {} if config.loss.adversarial == "none" else config_lib.NO_DISCRIMINATOR
    filters, strides = tuple(kernel.shape[3] for kernel in kernels), config.model.discriminator_strides
    if len(strides) != len(filters):
        example = ",".join(["2"] * (len(filters) // 2) + ["1"] * (len(filters) - len(filters) // 2))
        raise UserError(
            f"--weights={path} has a discriminator of {len(filters)} layers, of widths {', '.join(map(str, filters))},"
            f" whose strides its shapes do not tell; give them by --config.model.discriminator_strides={example}, for"
            f" instance, in place of {','.join(map(str, strides))}"
        )
    adversarial = config.loss.adversarial if config.loss.adversarial != "none" else "bce"
    return {"model.discriminator": "patch", "model.discriminator_filters": filters, "loss.adversarial": adversarial}
