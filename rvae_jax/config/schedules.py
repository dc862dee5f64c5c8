"""Lengths that are given in steps, or as shares of the run."""

from rvae_jax.config.forms import get_field, replace_fields
from rvae_jax.config.schema import SCHEDULES, Config


def steps_of(value: float, steps: int) -> int:
    """Returns the whole number of steps that a schedule's value means in a run of ``steps`` steps.

    From 1 on, the value is a number of steps. Below 1 it is a share of the run: ``value * steps``, rounded to the
    nearest whole number (a half to the even one), and at most ``steps - 1``, so that what starts at a share of the run
    starts before its end.
    """
    return int(value) if value >= 1 else min(round(value * steps), steps - 1)


def in_steps(config: Config) -> Config:
    """Returns a copy with every one of ``SCHEDULES`` as a whole number of steps; of ``eval_every`` at least 1."""
    lengths = {name: steps_of(get_field(config, name), config.steps) for name in SCHEDULES}
    return replace_fields(config, lengths | {"eval_every": max(1, lengths["eval_every"])})
