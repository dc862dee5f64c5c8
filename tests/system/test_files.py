import pytest
from etils import epath

from rvae_jax.errors import UserError
from rvae_jax.storage.workdir import open_workdir
from rvae_jax.system.files import require_writable


def test_a_file_that_can_be_written_leaves_nothing_but_its_folder(tmp_path):
    require_writable(epath.Path(tmp_path / "new" / "report.html"), "--output")
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


def test_a_file_that_cannot_be_written_is_named_with_the_flag(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output=.*/report.html cannot be written: (Not a directory|File exists)"):
        require_writable(epath.Path(tmp_path / "file" / "report.html"), "--output")
    with pytest.raises(UserError, match="cannot be written: it is a folder; expected a file"):
        require_writable(epath.Path(tmp_path), "--output")


@pytest.mark.parametrize("path", ["http://x/y", "s3://bucket/run", "file:///tmp/run"])
def test_a_store_of_another_kind_is_refused(path):
    with pytest.raises(UserError, match=f"--workdir={path}: expected a folder, or gs://BUCKET/PATH"):
        open_workdir(path)


def test_an_empty_path_is_refused():
    with pytest.raises(UserError, match="--workdir is empty; expected a folder"):
        open_workdir("")
