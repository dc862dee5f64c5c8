"""Turns weights of the author's program into a work directory; ``rvae_jax.import_keras`` is the command."""

from __future__ import annotations

import shlex

import jax

from rvae_jax import config as config_lib
from rvae_jax.config import Config
from rvae_jax.errors import UserError, needs

with needs("interop", command=False):
    from etils import epath

    from rvae_jax.data.prepare.on_demand import prepare_for
    from rvae_jax.formats import keras_layout, keras_networks
    from rvae_jax.storage import workdir as workdir_lib
    from rvae_jax.storage.checkpoints import Checkpoints, quiet_orbax
    from rvae_jax.storage.transfer import take_over
    from rvae_jax.training.program import make_program


@quiet_orbax()
def import_keras(weights: epath.Path, config: Config, workdir: epath.PathLike) -> str:
    """Makes a run, at step 0, from weights of the author's program.

    Args:
      weights: file of the author's program, as ``keras_layout.read`` takes it.
      config: configuration of the new run; its networks become those of the file, by ``keras_networks.infer``. Without
        a data set, the run can be used, and not trained.
      workdir: work directory of the new run; it must not hold a run.

    Returns:
      What was imported, in words.

    Raises:
      UserError: the file or the configuration is wrong, or the work directory holds a run.
    """
    workdir = workdir_lib.open_workdir(workdir)
    tensors = keras_layout.read_tensors(weights)
    given, config = config, keras_networks.infer(weights, tensors, config)
    config_lib.validate(config, device_count=1)
    for name in (workdir_lib.CONFIG_FILE, "checkpoints"):
        if (workdir / name).exists():
            raise UserError(f"--workdir={workdir} holds a run ({name}); expected a new folder")
    found = keras_layout.place(weights, tensors, config)
    flags = shlex.join(keras_networks.flags(given, config))
    has_data = config.data.name is not None or config.data.folder is not None
    if has_data:
        config = prepare_for(config)
    workdir_lib.make_folder(workdir)
    state = make_program(config).create_state(jax.random.key(config.seed))
    taken, left_out = take_over(state.weights, found)
    assert not left_out, left_out
    # The configuration is written last: it makes the folder a run, which must not exist without these weights.
    with Checkpoints(workdir, config.keep_checkpoints) as checkpoints:
        checkpoints.save(state.with_weights(taken).to_items(), config)
    workdir_lib.claim(workdir, config)
    count = len(jax.tree.leaves(found))
    players = "encoder, sampler, decoder" + (" and discriminator" if "discriminator" in found else "")
    further = "rvae_jax.main continues it" if has_data else "to train it further, import it with --config.data.name"
    networks = f", with the same --config flags and those of the file's networks: {flags}" if flags else ""
    return f"Imported {count} tensors of {weights}: {players}. {workdir} is a run at step 0; {further}{networks}"
