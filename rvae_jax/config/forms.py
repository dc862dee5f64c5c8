"""A configuration by its fields' dotted names (``model.latent_dim``), and as the JSON that runs store."""

import copy
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from rvae_jax.config.schema import Config
from rvae_jax.errors import UserError

# Fields that earlier versions stored by another name.
RENAMED = {
    "loss.kl_start_step": "loss.kl_start",
    "loss.kl_ramp_steps": "loss.kl_ramp",
    "loss.adversarial_start_step": "loss.adversarial_start",
    "loss.adversarial_ramp_steps": "loss.adversarial_ramp",
    "optimizer.warmup_steps": "optimizer.warmup",
}


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the configuration as nested dictionaries of JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any]) -> Config:
    """Returns the configuration that ``to_dict`` gave, also an earlier version's; missing fields take their defaults.

    Raises:
      UserError: a field does not exist.
    """
    return _section_from_dict(Config, values, "")


def flatten(config: Config) -> dict[str, Any]:
    """Returns every field's value, in JSON types, by dotted name."""
    return {name: list(value) if isinstance(value, tuple) else value for name, _, value in _fields(config)}


def differences(ours: Config, theirs: Config) -> list[str]:
    """Returns the dotted names of the fields in which two configurations differ."""
    ours_flat, theirs_flat = flatten(ours), flatten(theirs)
    return [name for name, value in ours_flat.items() if theirs_flat[name] != value]


def get_field(config: Config, name: str) -> Any:
    """Returns the value of a field by dotted name."""
    return functools.reduce(getattr, name.split("."), config)


def replace_fields(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns a copy with other values, by dotted name: ``replace_fields(config, {"model.latent_dim": 64})``.

    Raises:
      TypeError: a field does not exist.
    """

    def replaced(section: Any, path: list[str], value: Any) -> Any:
        name, *rest = path
        return dataclasses.replace(section, **{name: replaced(getattr(section, name), rest, value) if rest else value})

    result = copy.deepcopy(config)
    for name, value in changes.items():
        result = replaced(result, name.split("."), value)
    return result


def literal_fields(config: Config) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the dotted names of the fields that allow only certain strings, with these strings."""
    for name, annotation, _ in _fields(config):
        if get_origin(annotation) is Literal:
            yield name, get_args(annotation)


def _fields(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields dotted name, type and value of every field that is not itself a section."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(field.type):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field.type, value


def _section_from_dict(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    types = {field.name: field.type for field in dataclasses.fields(cls)}
    values = {RENAMED.get(prefix + name, prefix + name).removeprefix(prefix): value for name, value in values.items()}
    for name in values:
        if name not in types:
            raise UserError(f"configuration field {prefix}{name} does not exist; {cls.__name__} has {', '.join(types)}")

    def convert(name: str, value: Any) -> Any:
        if dataclasses.is_dataclass(types[name]):
            return _section_from_dict(types[name], value, f"{prefix}{name}.")
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: convert(name, value) for name, value in values.items()})
