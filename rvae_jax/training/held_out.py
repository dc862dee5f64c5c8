"""Metrics and pictures of held-out images, during a run and at its end."""

from __future__ import annotations

from rvae_jax.distributed import processes
from rvae_jax.drawing import grids
from rvae_jax.inference import samplers
from rvae_jax.storage import population_file
from rvae_jax.storage.weights import evaluation_variables
from rvae_jax.training.metric_log import MetricWriter, SilentWriter
from rvae_jax.training.pictures import Painter
from rvae_jax.training.run import Run
from rvae_jax.training.state import TrainState
from rvae_jax.training.validation import Validator


class HeldOut:
    """Evaluates states of a run on its held-out images, and writes what it finds."""

    def __init__(self, run: Run, writer: MetricWriter | SilentWriter) -> None:
        self._run, self._writer = run, writer
        self._validate, self._paint = Validator(run), Painter(run)

    def evaluate(self, state: TrainState) -> float:
        """Writes metrics and pictures of a state, and returns its mean absolute error on the selection images."""
        step, variables = int(state.step), evaluation_variables(state.weights)
        selection, validation = (self._validate(source, variables) for source in ("selection", "validation"))
        row = {f"selection/{name}": value for name, value in selection.metrics.items()}
        row |= {f"validation/{name}": value for name, value in validation.metrics.items()}
        self._writer.scalars(step, row)
        for name, picture in self._paint(validation, variables).items():
            self._writer.image(step, name, picture)
            if processes.is_first():
                grids.save_png(self._run.workdir / "pictures" / f"{name}_{step:08d}.png", picture)
        self._writer.publish()
        print(f"step {step}/{self._run.config.steps}  held-out {validation}", flush=True)
        return selection.metrics["l1"]

    def show_best(self, step: int, state: TrainState) -> None:
        """Evaluates the selected state, of ``step``, and leaves its pictures without a step in the name.

        The moments of the training images' codes stay, too: a Gaussian can then be sampled without the images.
        """
        folder, variables = self._run.workdir / "pictures", evaluation_variables(state.weights)
        validation = self._validate("validation", variables)
        moments = samplers.mean_and_covariance(*self._validate.population(variables))
        if processes.is_first():
            population_file.write(self._run.workdir, step, moments)
        for name, picture in self._paint(validation, variables).items():
            if processes.is_first():
                grids.save_png(folder / f"{name}.png", picture)
        row = {f"best/{name}": value for name, value in validation.metrics.items()}
        self._writer.scalars(self._run.config.steps, {"best/step": step, **row})
        chosen = "Best on the selection images" if self._run.config.select == "l1" else "Selected, as the last"
        print(f"Done. {chosen}: step {step}; held-out {validation}")
        print(f"Look at {folder}: reconstructions.png, samples.png, transition.png")
