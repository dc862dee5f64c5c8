"""Makes a work directory of a network that the author's program trained.

    python -m rvae_jax.import_keras --weights=author.weights.h5 --config=configs/celeba_hq.py --workdir=runs/author

It is at step 0, with fresh optimizers: ``rvae_jax.main`` with the same configuration trains it on.
"""

from __future__ import annotations

import sys

from rvae_jax.errors import MissingError, UserError, needs

with needs("interop", command=__name__ == "__main__"):
    from absl import app, flags
    from etils import epath

    from rvae_jax import config as config_lib
    from rvae_jax import workdir as workdir_lib
    from rvae_jax.config import Config
    from rvae_jax.main import CONFIG, WORKDIR, parse_flags

WEIGHTS = flags.DEFINE_string("weights", None, "The author's *.weights.h5.")


def main(_: list[str]) -> None:
    """Imports, and turns the outcome into an exit status: 0 done, 1 bad input."""
    try:
        print(import_keras(epath.Path(WEIGHTS.value).expanduser(), CONFIG.value, WORKDIR.value))
    except (UserError, MissingError) as error:
        sys.exit(f"Error: {error}")


def import_keras(weights: epath.Path, config: Config, workdir: epath.PathLike) -> str:
    """Writes the work directory.

    Args:
      weights: file of the author's program, see ``keras_layout.read``.
      config: of the run that it is to be; its networks must be the file's.
      workdir: of the run; it must not hold one.

    Returns:
      What was done, in words.

    Raises:
      UserError: the file or the configuration is wrong, or the work directory holds a run.
      MissingError: what reads the file is not installed.
    """
    with needs("interop", command=False):  # after --help
        import jax

        from rvae_jax.checkpoint import Checkpoints
        from rvae_jax.data import catalog
        from rvae_jax.interop import keras_layout
        from rvae_jax.program import make_program
        from rvae_jax.transfer import start_from

    workdir = workdir_lib.open_workdir(workdir)
    config_lib.validate(config, device_count=1)
    for name in (workdir_lib.CONFIG_FILE, "checkpoints"):
        if (workdir / name).exists():
            raise UserError(f"--workdir={workdir} holds a run, there is {name}; give another")
    found = keras_layout.read(weights, config)
    config = catalog.resolve(config)
    workdir_lib.make_folder(workdir)
    state, left_out = start_from(make_program(config).create_state(jax.random.key(config.seed)), found)
    assert not left_out, left_out
    # The configuration last: it makes a run of the folder, which must not be one without these weights.
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    checkpoints.save(state)
    checkpoints.close()
    workdir_lib.claim(workdir, config)
    count = len(jax.tree.leaves(found))
    players = "encoder, sampler, decoder" + (" and discriminator" if "discriminator" in found else "")
    return f"Placed {count} tensors of {weights}: {players}. {workdir} is a run at step 0; rvae_jax.main trains it on"


if __name__ == "__main__":
    flags.mark_flags_as_required(["weights", "config", "workdir"])
    app.run(main, flags_parser=parse_flags)
