"""Models on the Hugging Face hub: ``hf://USER/NAME``, or ``hf://USER/NAME@REVISION``."""

from __future__ import annotations

import os
from types import ModuleType

from etils import epath

from rvae_jax.errors import UserError, install, one_line

_SCHEME = "hf://"


def is_on_hub(path: epath.PathLike) -> bool:
    """Whether a path is an address on the hub."""
    return os.fspath(path).startswith(_SCHEME)


def fetch(address: epath.PathLike, files: list[str]) -> epath.Path:
    """Downloads files of a model, unless they are in the hub's cache, and returns their folder.

    Raises:
      UserError: the address is no address of a model, the model cannot be had, or huggingface_hub is not installed.
    """
    name, _, revision = os.fspath(address).removeprefix(_SCHEME).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"{os.fspath(address)}: expected {_SCHEME}USER/NAME or {_SCHEME}USER/NAME@REVISION")
    hub = _package()
    try:
        return epath.Path(hub.snapshot_download(name, revision=revision or None, allow_patterns=files))
    except Exception as error:  # of the hub, or of the network below it
        raise UserError(f"{os.fspath(address)} cannot be fetched: {one_line(error)}") from error


def push(folder: epath.Path, name: str) -> str:
    """Uploads a folder as the model USER/NAME, which is made if it is missing; private until its owner publishes it.

    Returns:
      Its address on the web.

    Raises:
      UserError: it cannot be uploaded, or huggingface_hub is not installed.
    """
    hub = _package()
    try:
        url = hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=os.fspath(folder))
    except Exception as error:  # of the hub, or of the network below it
        raise UserError(f"--push={name}: {one_line(error)}") from error
    return str(url)


def _package() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{error.name} is missing; {install('hub')}") from None
    return huggingface_hub
