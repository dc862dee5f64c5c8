import pytest
from etils import epath

from rvae_jax.errors import UserError
from rvae_jax.storage.workdir import open_workdir
from rvae_jax.system.files import require_writable


def test_a_folder_that_can_be_written_to_is_made_and_left_empty(tmp_path):
    require_writable(epath.Path(tmp_path / "new" / "folder"), "--output=new")
    assert list((tmp_path / "new").rglob("*")) == [tmp_path / "new" / "folder"]


def test_a_folder_that_cannot_be_made_is_named_as_it_was_given(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        with pytest.raises(UserError, match=r"^--output=x: cannot be written to: (Not a directory|File exists)"):
            require_writable(epath.Path(tmp_path / path), "--output=x")


@pytest.mark.parametrize("path", ["http://x/y", "s3://bucket/run", "file:///tmp/run"])
def test_a_store_of_another_kind_is_refused(path):
    with pytest.raises(UserError, match=f"--workdir={path}: expected a path here, or gs://BUCKET/PATH"):
        open_workdir(path)


def test_an_empty_path_is_refused():
    with pytest.raises(UserError, match="--workdir is empty; expected a path"):
        open_workdir("")
