"""A trained model as the files of each format; ``rvae_jax.export`` is the command."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from etils import epath

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError, needs
from rvae_jax.storage.workdir import CONFIG_FILE
from rvae_jax.system.files import write_atomically
from rvae_jax.training.metric_log import METRICS_FILE, read_metrics

# What brings JAX is imported where it is used: after --help.
if TYPE_CHECKING:
    from rvae_jax.storage.stored_model import StoredModel

_PICTURES = ("reconstructions", "samples_prior", "samples_gaussian", "transitions_linear")

# A file's name and content.
File = tuple[str, bytes]


def safetensors(model: StoredModel) -> Iterator[File]:
    """All weights, moments of the codes where the model has them, and the configuration without local paths."""
    from rvae_jax.storage import tensor_file
    from rvae_jax.storage.stored_model import TENSORS_FILE

    paths = ("data.data_dir", "data.folder") if model.config.data.name else ("data.data_dir",)
    config = config_lib.replace_fields(model.config, dict.fromkeys(paths))
    yield TENSORS_FILE, tensor_file.to_bytes(config, model.weights, model.step, model.moments)
    yield CONFIG_FILE, (json.dumps(config_lib.to_dict(config), indent=2) + "\n").encode()


def stablehlo(model: StoredModel) -> Iterator[File]:
    """Encoder and decoder, computing in the type of the configuration."""
    with needs("interop", command=False):
        from rvae_jax.formats import stablehlo
        from rvae_jax.storage.weights import evaluation_variables
    for network in _networks(model.config):
        content = stablehlo.to_bytes(network.function, evaluation_variables(model.weights), network.item)
        yield f"{network.name}.jax_export", content


def onnx(model: StoredModel) -> Iterator[File]:
    """Encoder and decoder, computing in float32, as the weights are."""
    with needs("interop", command=False):
        from rvae_jax.formats import onnx_graph
        from rvae_jax.storage.weights import evaluation_variables
    for network in _networks(config_lib.replace_fields(model.config, {"model.dtype": "float32"})):
        graph = onnx_graph.to_onnx(
            network.function,
            evaluation_variables(model.weights),
            network.item,
            input_name=network.input,
            output_names=network.outputs,
            description=f"{network.name} of a {model.config.data.name} model, step {model.step}",
        )
        yield f"{network.name}.onnx", graph.SerializeToString()


def keras(model: StoredModel) -> Iterator[File]:
    """The weights as the author's program saves them."""
    with needs("interop", command=False):
        from rvae_jax.formats import keras_layout
    yield "author.weights.h5", keras_layout.to_bytes(model.config, model.weights)


def hub(model: StoredModel, name: str, license: str, data_dir: str | None = None) -> Iterator[File]:
    """A directory to share, in the layout of the Hugging Face hub: ``safetensors``, pictures and a model card.

    It has the mean and covariance of the training images' codes, so that sampling from their Gaussian needs no training
    images. Pictures that need the data set are left out if it is missing. The evaluation is that of the work directory,
    if it has one of this step.

    Args:
      model: the model.
      name: its name on the card.
      license: the hub's identifier of the weights' licence.
      data_dir: folder of prepared data sets, if not the run's own.
    """
    with needs("interop", command=False):
        from rvae_jax.drawing import figures
        from rvae_jax.drawing.scene import Scene
        from rvae_jax.evaluation import results
        from rvae_jax.evaluation.diagnosis import diagnose
        from rvae_jax.inference import trained_vae
        from rvae_jax.reporting import model_card
    trained = trained_vae.from_stored(model, data_dir)
    try:
        model = dataclasses.replace(model, moments=trained.moments)
    except UserError as error:
        print(f"Left out: mean and covariance of the training images' codes: {error}")
    yield from safetensors(model)
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
    yield model_card.FILE, model_card.make_card(name, model, license, pictures, evaluation, verdicts).encode()


FORMATS = {"safetensors": safetensors, "hub": hub, "stablehlo": stablehlo, "onnx": onnx, "keras": keras}


@dataclasses.dataclass(frozen=True)
class _Network:
    """One of the two, as a function of its variables and of images or codes ``[n, *item]``."""

    name: str
    function: Callable[[Any, Any], Any]
    item: tuple[int, ...]
    input: str
    outputs: tuple[str, ...]


def _networks(config: Config) -> tuple[_Network, _Network]:
    from rvae_jax.models import make_models

    vae, _ = make_models(config.model, adversarial=False)
    encode, decode = (functools.partial(vae.apply, method=method) for method in ("encode", "decode"))
    return (
        _Network("encoder", encode, config.model.image_shape, "images", ("mean", "log_var")),
        _Network("decoder", decode, (config.model.latent_dim,), "codes", ("images",)),
    )


def write(files: Iterable[File], folder: epath.Path) -> Iterator[str]:
    """Writes the files, each of which is there only when it is whole.

    Yields:
      A line for each.

    Raises:
      UserError: the folder holds a run.
    """
    if (folder / "checkpoints").exists():
        raise UserError(f"--output={folder} holds a run; give a folder of its own")
    for name, content in files:
        write_atomically(folder / name, content)
        yield f"Wrote {folder / name}, {len(content):,} bytes"
