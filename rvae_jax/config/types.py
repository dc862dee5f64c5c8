"""Whether a configuration has the fields of the schema, and values of their types."""

import dataclasses
import difflib
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from rvae_jax.config.schema import RENAMED, Config
from rvae_jax.errors import UserError, printable

_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", type(None): "None"}


def require_types(config: Config) -> None:
    """Checks what Python lets pass: attributes that are no fields, and values of other types than the schema's.

    A whole number is a number, too; True and False are neither.

    Raises:
      UserError: names the first wrong field.
    """
    if not isinstance(config, Config):
        raise UserError(f"the configuration is a {type(config).__name__}: expected a Config")
    _require_section(config, "")


def require_field(name: str) -> None:
    """Checks that a dotted name is that of a field.

    Raises:
      UserError: it is not; the message has the names that are.
    """
    annotation: Any = Config
    for part in name.split("."):
        known = _types_of(annotation) if dataclasses.is_dataclass(annotation) else {}
        if part not in known:
            raise UserError(unknown_field(name, part, known))
        annotation = known[part]
    if dataclasses.is_dataclass(annotation):
        fields = ", ".join(_types_of(annotation))
        raise UserError(f"configuration field {name} is a section; give one of its fields {fields}")


def value_types(section: type = Config) -> set[Any]:
    """The types that fields have, None apart."""
    found = set()
    for annotation in _types_of(section).values():
        if dataclasses.is_dataclass(annotation):
            found |= value_types(annotation)
        else:
            is_union = get_origin(annotation) in (Union, types.UnionType)
            found |= set(get_args(annotation) if is_union else [annotation])
    return found - {type(None)}


def unknown_field(name: str, part: str, known: Iterable[str]) -> str:
    """What to say of a dotted name, of which a part is not among the known names of its section."""
    if name in RENAMED:
        return f"configuration field {name} does not exist; it is called {RENAMED[name]} now"
    known = list(known)
    meant = "".join(f"did you mean {similar}? " for similar in difflib.get_close_matches(part, known, n=1))
    there = ", ".join(known) or "none below it"
    return f"configuration field {printable(name)} does not exist; {meant}there are {there}"


def _types_of(section: Any) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(section)}


def _require_section(section: Any, prefix: str) -> None:
    fields = _types_of(section)
    for name in vars(section):
        if name not in fields:
            raise UserError(unknown_field(prefix + name, name, fields))
    for name, annotation in fields.items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(annotation):
            if type(value) is not annotation:
                raise UserError(f"configuration section {prefix}{name} is {value!r}: expected {annotation.__name__}")
            _require_section(value, f"{prefix}{name}.")
        elif not _fits(value, annotation):
            raise UserError(f"--config.{prefix}{name}={value!r}: expected {_describe(annotation)}")


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return isinstance(value, tuple) and all(_fits(each, arguments[0]) for each in value)
        fits = isinstance(value, tuple) and len(value) == len(arguments)
        return fits and all(map(_fits, value, arguments))
    if isinstance(value, bool):
        return annotation is bool
    return isinstance(value, (int, float) if annotation is float else annotation)


def _describe(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_describe, arguments))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return "a tuple of whole numbers, such as (64, 128)"
        return f"a tuple of {len(arguments)} whole numbers"
    return _NAMES[annotation]
