"""A configuration by its fields' dotted names (``model.latent_dim``), and as the JSON that runs store."""

import copy
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rvae_jax.config.schema import RENAMED, Config
from rvae_jax.config.types import require_types, unknown_field
from rvae_jax.errors import UserError


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the configuration as nested dictionaries of JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any]) -> Config:
    """Returns the configuration that ``to_dict`` gave, also an earlier version's; missing fields take their defaults.

    Raises:
      UserError: a field does not exist, or a value is of another type.
    """
    config = _section_from_dict(Config, values, "")
    require_types(config)
    return config


def flatten(config: Config) -> dict[str, Any]:
    """Returns every field's value, in JSON types, by dotted name."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in _fields(config)}


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


def _fields(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted name and value of every field that is not itself a section."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(field.type):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def _section_from_dict(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"configuration section {prefix.rstrip('.')} is {values!r}: expected a {cls.__name__}")
    types = {field.name: field.type for field in dataclasses.fields(cls)}
    values = {RENAMED.get(prefix + name, prefix + name).removeprefix(prefix): value for name, value in values.items()}
    for name in values:
        if name not in types:
            raise UserError(unknown_field(prefix + name, name, types))

    def convert(name: str, value: Any) -> Any:
        if dataclasses.is_dataclass(types[name]):
            return _section_from_dict(types[name], value, f"{prefix}{name}.")
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: convert(name, value) for name, value in values.items()})
