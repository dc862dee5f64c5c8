"""What a run is: nested typed dataclasses (``schema``), their checks (``rules``), and their form on disk (``forms``).

``schedules`` turns the shares of a run's length into steps; ``files`` finds and reads configuration files.

A file in ``configs/`` defines ``get_config(variant=None) -> Config``; ``--config.model.latent_dim=64`` overrides it.
Only the standard library is imported, so that ``--help`` is quick.
"""

from rvae_jax.config.files import find_file, read_file
from rvae_jax.config.forms import (
    RENAMED,
    differences,
    flatten,
    from_dict,
    get_field,
    replace_fields,
    to_dict,
)
from rvae_jax.config.rules import validate, validate_networks
from rvae_jax.config.schedules import in_steps, steps_of
from rvae_jax.config.schema import MAY_CHANGE, SCHEDULES, Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig
from rvae_jax.config.types import require_field, require_types, value_types
from rvae_jax.config.variants import (
    NO_DISCRIMINATOR,
    NO_PERCEPTUAL_TERM,
    make_tiny,
    require_variant,
    without_texture,
)

__all__ = [
    "MAY_CHANGE",
    "NO_DISCRIMINATOR",
    "NO_PERCEPTUAL_TERM",
    "RENAMED",
    "SCHEDULES",
    "Config",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "differences",
    "find_file",
    "flatten",
    "from_dict",
    "get_field",
    "in_steps",
    "make_tiny",
    "read_file",
    "replace_fields",
    "require_field",
    "require_types",
    "require_variant",
    "steps_of",
    "to_dict",
    "validate",
    "validate_networks",
    "value_types",
    "without_texture",
]
