import os
import shlex
import subprocess

import pytest
from launch_scripts import DATA, GKE, LAUNCH, QUEUED


@pytest.fixture
def launch(tmp_path):
    """Runs a script with the given variables; programs in ``tmp_path/bin`` come first on the path."""
    (tmp_path / "bin").mkdir()
    plain = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path), "LANG": "C.UTF-8"}

    def run(script, *arguments, variables=None, **options):
        return subprocess.run(
            ["bash", str(LAUNCH / script), *arguments],
            env=plain | (variables or {}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )

    run.environment = plain
    return run


@pytest.fixture
def printed(launch):
    """The words of each line that a script prints with --dry-run."""

    def run(script, command, *arguments, variables=None):
        result = launch(script, command, "--dry-run", *arguments, variables=QUEUED | GKE | DATA | (variables or {}))
        assert result.returncode == 0, result.stderr
        return [shlex.split(line) for line in result.stdout.splitlines()]

    return run
