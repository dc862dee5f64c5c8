"""A trained model as the files of each format; ``rvae_jax.export`` is the command.

With ``prior="fold"`` each format also has the generator: the decoder with the Gaussian of the training images' codes
folded into it, so that N(0, I) gives images. The model then needs its moments; see ``with_moments``. With ``"mixture"``
the generator is the mixture of Gaussians that was fitted to the codes, then the decoder; see ``with_mixture``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from rvae_jax import config as config_lib
from rvae_jax.errors import UserError, needs
from rvae_jax.formats import Prior
from rvae_jax.inference import folding, samplers, trained_vae
from rvae_jax.models import make_models
from rvae_jax.storage import tensor_file
from rvae_jax.storage.stored_model import TENSORS_FILE, StoredModel
from rvae_jax.storage.weights import evaluation_variables
from rvae_jax.storage.workdir import CONFIG_FILE
from rvae_jax.system.files import write_atomically
from rvae_jax.training.metric_log import METRICS_FILE, read_metrics

_GENERATOR = "generator"
_PICTURES = ("reconstructions", "samples_prior", "samples_gaussian", "transitions_linear")

# A file's name and content.
File = tuple[str, bytes]


def safetensors(model: StoredModel, prior: Prior = "normal") -> Iterator[File]:
    """All weights, the moments of the codes if the model has them, and the configuration without local paths."""
    paths = ("data.data_dir", "data.folder") if model.config.data.name else ("data.data_dir",)
    config = config_lib.replace_fields(model.config, dict.fromkeys(paths))
    content = tensor_file.Content(config, model.weights, model.step, model.moments, model.best_sampler, model.mixture)
    yield TENSORS_FILE, tensor_file.to_bytes(content)
    yield CONFIG_FILE, (json.dumps(config_lib.to_dict(config), indent=2) + "\n").encode()
    if prior == "fold":
        yield f"{_GENERATOR}.safetensors", tensor_file.generator_to_bytes(_folded(model), model.step, {})
    if prior == "mixture":
        variables, transform = evaluation_variables(model.weights), _transform(model)
        yield f"{_GENERATOR}.safetensors", tensor_file.generator_to_bytes(variables, model.step, transform)


def stablehlo(model: StoredModel, prior: Prior = "normal") -> Iterator[File]:
    """Encoder and decoder, in the data type of the configuration."""
    with needs("interop", command=False):
        from rvae_jax.formats import stablehlo
    for network in _networks(model, prior):
        content = stablehlo.to_bytes(network.function, network.variables, network.item)
        yield f"{network.name}.jax_export", content


def onnx(model: StoredModel, prior: Prior = "normal") -> Iterator[File]:
    """Encoder and decoder, in float32."""
    with needs("interop", command=False):
        from rvae_jax.formats import onnx_graph
    config = config_lib.replace_fields(model.config, {"model.dtype": "float32"})
    for network in _networks(dataclasses.replace(model, config=config), prior):
        graph = onnx_graph.to_onnx(
            network.function,
            network.variables,
            network.item,
            input_name=network.input,
            output_names=network.outputs,
            description=f"{network.name} of a {model.config.data.name} model, step {model.step}",
        )
        yield f"{network.name}.onnx", graph.SerializeToString()


def keras(model: StoredModel, prior: Prior = "normal") -> Iterator[File]:
    """The weights as the author's program saves them; averaged ones, if there are any."""
    if prior == "mixture":
        raise UserError("--prior=mixture: the author's program has no layer for it; expected --prior=fold, or normal")
    with needs("interop", command=False):
        from rvae_jax.formats import keras_layout
    yield "author.weights.h5", keras_layout.to_bytes(model.config, model.weights)
    if prior == "fold":
        weights = {**model.weights, "vae": _folded(model)}
        weights.pop("ema_params", None)
        yield f"{_GENERATOR}.weights.h5", keras_layout.to_bytes(model.config, weights)


def hub(
    model: StoredModel, prior: Prior = "normal", *, name: str, license: str, data_dir: str | None = None
) -> Iterator[File]:
    """A directory to share on the Hugging Face hub: ``safetensors``, a model card, pictures, metrics, the evaluation.

    The weights come with the moments of the training images' codes, so that sampling from their Gaussian needs no
    training images. Pictures that need a missing data set are left out, and so is an evaluation of another step.

    Args:
      model: the model.
      prior: as in the other formats.
      name: its name on the hub.
      license: license of the weights, by the hub's identifier.
      data_dir: folder of prepared data sets, if they have moved since the run.
    """
    with needs("interop", command=False):
        from rvae_jax.drawing import figures
        from rvae_jax.drawing.scene import Scene
        from rvae_jax.evaluation import results
        from rvae_jax.evaluation.diagnosis import diagnose
        from rvae_jax.reporting import model_card
    try:
        model = with_moments(model, data_dir)
    except UserError as error:
        print(f"Left out: mean and covariance of the training images' codes: {error}")
    yield from safetensors(model, prior)
    trained = trained_vae.from_stored(model, data_dir)
    pictures = []
    for picture, figure in figures.draw(Scene(trained, enlarged=True), _PICTURES):
        content, suffix = figure.encoded()
        pictures.append((f"pictures/{picture}.{suffix}", figure.caption))
        yield pictures[-1][0], content
    rows = read_metrics(model.folder)
    if rows:
        yield METRICS_FILE, (model.folder / METRICS_FILE).read_bytes()
    evaluation = results.read(model.folder, model.step)
    verdicts = []
    if evaluation is not None:
        evaluation = dataclasses.replace(evaluation, model=dataclasses.replace(evaluation.model, workdir=name))
        verdicts = diagnose(evaluation, rows, model.config)
        yield results.FILE, results.to_bytes(evaluation)
    card = model_card.make_card(name, model, license, pictures, evaluation, verdicts, trained.best_sampler)
    yield model_card.FILE, card.encode()


def with_moments(model: StoredModel, data_dir: str | None = None) -> StoredModel:
    """The model with the moments of the training images' codes, which are encoded unless the moments are stored.

    Raises:
      UserError: they are not stored, and the training images are not there.
    """
    return dataclasses.replace(model, moments=trained_vae.from_stored(model, data_dir).moments)


def with_mixture(model: StoredModel, data_dir: str | None = None) -> StoredModel:
    """The model with moments and a mixture of Gaussians, which is fitted to the codes unless it is stored.

    Raises:
      UserError: as ``with_moments``.
    """
    trained = trained_vae.from_stored(model, data_dir)
    return dataclasses.replace(model, mixture=tuple(trained.mixture), moments=trained.moments)


@dataclasses.dataclass(frozen=True)
class _Network:
    """Encoder, decoder or generator, as a function of its variables and of images or codes ``[n, *item]``."""

    name: str
    variables: Any
    function: Callable[[Any, Any], Any]
    item: tuple[int, ...]
    input: str
    outputs: tuple[str, ...]


def _networks(model: StoredModel, prior: Prior) -> Iterator[_Network]:
    config, variables = model.config.model, evaluation_variables(model.weights)
    vae, _ = make_models(config, adversarial=False)
    encode, decode = (functools.partial(vae.apply, method=method) for method in ("encode", "decode"))
    yield _Network("encoder", variables, encode, config.image_shape, "images", ("mean", "log_var"))
    yield _Network("decoder", variables, decode, (config.latent_dim,), "codes", ("images",))
    if prior == "fold":
        yield _Network(_GENERATOR, _folded(model), decode, (config.latent_dim,), "noise", ("images",))
    if prior == "mixture":
        transform = _transform(model)

        def generate(weights: Any, noise: jax.Array) -> jax.Array:
            return decode(weights["vae"], samplers.noise_to_codes(weights["prior"], noise))

        weights, item = {"vae": variables, "prior": transform}, (config.latent_dim + 1,)
        yield _Network(_GENERATOR, weights, generate, item, "noise", ("images",))


def _transform(model: StoredModel) -> dict[str, list[np.ndarray]]:
    return samplers.mixture_transform(samplers.Mixture(*model.mixture))


def _folded(model: StoredModel) -> Any:
    return folding.fold(evaluation_variables(model.weights), *model.moments)


def write(files: Iterable[File], folder: epath.Path) -> Iterator[str]:
    """Writes files, each of which appears only when it is complete.

    Yields:
      A line for each file.

    Raises:
      UserError: the folder holds a run.
    """
    if (folder / "checkpoints").exists():
        raise UserError(f"--output={folder} holds a run; expected another folder")
    for name, content in files:
        write_atomically(folder / name, content)
        yield f"Wrote {folder / name}, {len(content):,} bytes"
