import pytest
from etils import epath

from rvae_jax.storage import environment


def test_the_environment_is_read_as_it_was_written(tmp_path):
    written = environment.Environment("8 x TPU v4 (tpu)", cores=240, rvae_jax="0.1", jax="0.10")
    environment.write(epath.Path(tmp_path), written)
    assert environment.read(epath.Path(tmp_path)) == written


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"gpu": 1}'])
def test_a_run_without_a_readable_environment_has_none(tmp_path, content):
    if content is not None:
        (tmp_path / environment.FILE).write_text(content)
    assert environment.read(epath.Path(tmp_path)) is None
