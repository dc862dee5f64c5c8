"""Writes a trained model in another form: ``python -m rvae_jax.export --format=onnx --workdir=runs/orl``.

``safetensors``: ``model.safetensors``, all weights by readable names, with ``config.json``; what ``rvae_jax.load`` and
``--init_from`` take. ``hub``: the same with a model card, pictures and the evaluation, to be shared. ``stablehlo``:
``encoder.jax_export`` and ``decoder.jax_export``, for ``jax.export.deserialize``. ``onnx``: ``encoder.onnx`` and
``decoder.onnx``. ``keras``: ``author.weights.h5``, for the author's program.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from etils import epath

from rvae_jax import config as config_lib
from rvae_jax import workdir as workdir_lib
from rvae_jax.config import Config
from rvae_jax.errors import MissingError, UserError, needs
from rvae_jax.logging import METRICS_FILE, read_metrics
from rvae_jax.workdir import CONFIG_FILE, write_whole

# What brings JAX is imported where it is used: after --help.
if TYPE_CHECKING:
    from rvae_jax.stored import StoredModel

FOLDER = "export"

_PICTURES = ("reconstructions", "samples_prior", "samples_gaussian", "transitions_linear")

# A file's name and content.
File = tuple[str, bytes]


def safetensors(model: StoredModel) -> Iterator[File]:
    """All weights, moments of the codes where the model has them, and the configuration without local paths."""
    from rvae_jax.interop import tensors
    from rvae_jax.stored import TENSORS_FILE

    config = copy.deepcopy(model.config)
    config.data.data_dir = None
    if config.data.name:
        config.data.folder = None
    yield TENSORS_FILE, tensors.to_bytes(config, model.weights, model.step, model.moments)
    yield CONFIG_FILE, (json.dumps(config_lib.to_dict(config), indent=2) + "\n").encode()


def stablehlo(model: StoredModel) -> Iterator[File]:
    """Encoder and decoder, computing in the type of the configuration."""
    with needs("interop", command=False):
        from rvae_jax.interop import compiled
        from rvae_jax.weights import evaluated
    for network in _networks(model.config):
        content = compiled.to_bytes(network.function, evaluated(model.weights), network.item)
        yield f"{network.name}.jax_export", content


def onnx(model: StoredModel) -> Iterator[File]:
    """Encoder and decoder, computing in float32, as the weights are."""
    with needs("interop", command=False):
        from rvae_jax.interop import onnx_graph
        from rvae_jax.weights import evaluated
    config = copy.deepcopy(model.config)
    config.model.dtype = "float32"
    for network in _networks(config):
        graph = onnx_graph.to_onnx(
            network.function,
            evaluated(model.weights),
            network.item,
            input_name=network.input,
            output_names=network.outputs,
            description=f"{network.name} of a {model.config.data.name} model, step {model.step}",
        )
        yield f"{network.name}.onnx", graph.SerializeToString()


def keras(model: StoredModel) -> Iterator[File]:
    """The weights as the author's program saves them."""
    with needs("interop", command=False):
        from rvae_jax.interop import keras_layout
    yield "author.weights.h5", keras_layout.to_bytes(model.config, model.weights)


def hub(model: StoredModel, name: str, license: str, data_dir: str | None = None) -> Iterator[File]:
    """A directory to share, in the layout of the Hugging Face hub: ``safetensors``, and what tells people about it.

    With the moments of the training images' codes, so that sampling from their Gaussian needs no training images.
    Pictures are drawn, as many as can be without the data set where that is gone; the evaluation is that of the work
    directory, if there is one of this step.

    Args:
      model: the model.
      name: that it is to have.
      license: of the weights, by the hub's identifier.
      data_dir: folder of prepared data sets, if it is not where the run had it.
    """
    with needs("interop", command=False):
        from rvae_jax import figures, inference, judging, verdicts
        from rvae_jax.interop import model_card
    trained = inference.from_stored(model, data_dir)
    try:
        model = dataclasses.replace(model, moments=trained.moments)
    except UserError as error:
        print(f"Left out: the moments of the training images' codes: {error}")
    yield from safetensors(model)
    pictures = []
    drawer = figures.Drawer(trained, enlarged=True)
    for picture, figure in drawer.all(_PICTURES):
        content, suffix = figure.encoded()
        pictures.append((f"pictures/{picture}.{suffix}", figure.caption))
        yield pictures[-1][0], content
    rows = read_metrics(model.folder)
    if rows:
        yield METRICS_FILE, (model.folder / METRICS_FILE).read_bytes()
    evaluation = judging.read(model.folder, model.step)
    found = []
    if evaluation is not None:
        evaluation["model"]["workdir"] = name
        found = verdicts.verdicts(evaluation, rows, model.config)
        yield judging.FILE, judging.to_bytes(evaluation)
    yield model_card.FILE, model_card.card(name, model, license, pictures, evaluation, found).encode()


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
    from rvae_jax.train_state import make_models

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
        write_whole(folder / name, content)
        yield f"Wrote {folder / name}, {len(content):,} bytes"


def main() -> None:
    """Exports, and turns the outcome into an exit status: 0 done, 1 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m rvae_jax.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--format", required=True, choices=FORMATS)
    add("--workdir", required=True, help="of the run; or an exported directory, or a .safetensors file")
    add("--step", type=int, help="of the checkpoint (the best on the selection images)")
    add("--output", help=f"folder to write to, or gs://BUCKET/PATH ({FOLDER}/ in the work directory)")
    add("--name", help="hub: of the model (that of the work directory)")
    add(
        "--license",
        default="unknown",
        help="hub: of the weights, as the hub has it: apache-2.0, cc-by-nc-4.0 (unknown)",
    )
    add("--data_dir", help="hub: folder of prepared data sets, if it is not where the run had it")
    arguments = parser.parse_args()
    from rvae_jax import stored

    try:
        model = stored.read(arguments.workdir, arguments.step)
        print(f"Exporting the {model.source}", flush=True)
        folder = workdir_lib.open_workdir(arguments.output or model.folder / FOLDER)
        name = arguments.name or model.folder.resolve().name
        make = FORMATS[arguments.format]
        if make is hub:
            make = functools.partial(hub, name=name, license=arguments.license, data_dir=arguments.data_dir)
        for line in write(make(model), folder):
            print(line, flush=True)
    except (UserError, MissingError) as error:
        sys.exit(f"Error: {error}")
    except OSError as error:
        sys.exit(f"Error: --output: {error.filename or folder}: {error.strerror or error}")
    if arguments.format == "hub":
        print(f"To share it: hf upload USER/{name} {folder}")


if __name__ == "__main__":
    main()
