"""Writes a trained model in another format: ``python -m rvae_jax.export --format=onnx --workdir=runs/orl``.

``safetensors``: ``model.safetensors``, all weights by readable names, and ``config.json``; ``rvae_jax.load`` and
``--init_from`` read them. ``hub``: the same with a model card, pictures and the evaluation, to be shared.
``stablehlo``: ``encoder.jax_export`` and ``decoder.jax_export``, for ``jax.export.deserialize``. ``onnx``:
``encoder.onnx`` and ``decoder.onnx``. ``keras``: ``author.weights.h5``, for the author's program.

``--prior=fold`` adds ``generator`` to each: the decoder with the Gaussian of the training images' codes folded into it,
so that noise from N(0, I) gives the images of ``sample(sampler="gaussian")``. ``--prior=mixture``: those of
``sampler="mixture"``; the noise has one number more, which chooses the Gaussian.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
from typing import get_args

from rvae_jax import command_line
from rvae_jax.errors import UserError, command
from rvae_jax.formats import FORMATS, Prior
from rvae_jax.system import signals

FOLDER = "export"
_NAME = re.compile(r"[\w.-]{1,96}", re.ASCII)


def main() -> None:
    """Exports; exits with 1 on bad input."""
    parser = argparse.ArgumentParser(
        prog=command("export"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--format", required=True, choices=FORMATS)
    command_line.add_model_arguments(parser, workdir="of the run; or an exported directory, or a .safetensors file")
    add("--output", help=f"folder to write to, or gs://BUCKET/PATH ({FOLDER}/ in the work directory)")
    add("--prior", default="normal", choices=get_args(Prior), help="also write the generator (normal)")
    add("--name", help="hub: name of the model (that of the work directory)")
    add(
        "--license",
        default="unknown",
        help="hub: license of the weights, by the hub's identifier: apache-2.0, cc-by-nc-4.0 (unknown)",
    )
    add("--push", metavar="USER/NAME", help="hub: upload the folder as this model, private if it is new")
    arguments = parser.parse_args()
    if arguments.push and arguments.format != "hub":
        parser.error("--push needs --format=hub")
    if arguments.name and not _NAME.fullmatch(arguments.name):
        parser.error(f"--name={arguments.name!r}: expected letters, digits, '-', '_' and '.', as the hub's names have")
    from rvae_jax.formats import export  # after --help
    from rvae_jax.storage import hub, stored_model
    from rvae_jax.storage.workdir import open_workdir

    with command_line.exit_on_user_error():
        model = stored_model.read(arguments.workdir, arguments.step)
        print(f"Exporting the {model.source}", flush=True)
        folder = open_workdir(arguments.output or model.folder / FOLDER, "--output")
        name = arguments.name or _as_name(model.folder.resolve().name)
        make = functools.partial(getattr(export, arguments.format), prior=arguments.prior)
        if arguments.prior == "fold":
            model = export.with_moments(model, arguments.data_dir)
        elif arguments.prior == "mixture" and arguments.format != "keras":
            model = export.with_mixture(model, arguments.data_dir)
        if arguments.format == "hub":
            make = functools.partial(make, name=name, license=arguments.license, data_dir=arguments.data_dir)
        try:
            for line in export.write(make(model), folder):
                print(line, flush=True)
        except OSError as error:
            raise UserError(f"--output: {error.filename or folder}: {error.strerror or error}") from None
        if arguments.push:
            print(
                f"Uploaded to {hub.push(folder, arguments.push)}; load it with rvae_jax.load('hf://{arguments.push}')"
            )
    if arguments.format == "hub" and not arguments.push:
        print(f"To share it: hf upload USER/{name} {shlex.quote(str(folder))}")


def _as_name(text: str) -> str:
    """A name that the hub takes."""
    return re.sub(r"\W+", "-", text, flags=re.ASCII).strip("-")[:96] or "model"


if __name__ == "__main__":
    signals.exit_at_once()
    main()
