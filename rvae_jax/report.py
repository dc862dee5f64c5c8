"""Makes one page on one run or several, side by side: ``python -m rvae_jax.report --workdir=runs/orl``."""

from __future__ import annotations

import argparse

from rvae_jax import command_line
from rvae_jax.errors import UserError, command, needs
from rvae_jax.system import signals

FILE = "report.html"


def main() -> None:
    """Writes the page; exits with status 0 when done, 1 on bad input."""
    parser = argparse.ArgumentParser(prog=command("report"), description=__doc__)
    add = parser.add_argument
    add("--workdir", required=True, action="append", help="of a run; repeat it to compare several")
    add("--output", help="file to write, or gs://BUCKET/PATH (report.html in the first work directory)")
    command_line.add_data_dir(parser)
    command_line.add_evaluation_arguments(parser)
    arguments = vars(parser.parse_args())
    with needs("evaluate", command=True):  # after --help
        from rvae_jax.reporting.page import make_report
        from rvae_jax.storage.workdir import open_workdir
        from rvae_jax.system.files import require_writable, write_atomically
    with command_line.exit_on_user_error():
        is_stored_enough = not command_line.asks_for_an_evaluation(arguments)
        settings = command_line.evaluation_settings(arguments)
        models = [command_line.load_model(workdir, None, arguments["data_dir"]) for workdir in arguments["workdir"]]
        output = arguments["output"]
        path = models[0].workdir / FILE if output is None else open_workdir(output, "--output")
        if path.is_dir():
            raise UserError(f"--output={output} is a folder; expected a file")
        require_writable(path.parent, f"{path.parent} (or give --output)" if output is None else f"--output={output}")
        write_atomically(path, make_report(models, settings, of_any_settings=is_stored_enough).encode())
    print(f"Wrote {path}: open it in a browser")


if __name__ == "__main__":
    signals.exit_at_once()
    main()
