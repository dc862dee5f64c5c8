"""One page about one run or several, side by side: ``python -m rvae_jax.report --workdir=runs/orl``."""

import argparse
import sys

from rvae_jax import evaluate
from rvae_jax.errors import UserError, needs

FILE = "report.html"


def main() -> None:
    """Writes the page, and turns the outcome into an exit status: 0 done, 1 bad input."""
    parser = argparse.ArgumentParser(prog="python -m rvae_jax.report", description=__doc__)
    add = parser.add_argument
    add("--workdir", required=True, action="append", help="of a run; give it again for more, side by side")
    add("--output", help="file to write, or gs://BUCKET/PATH (report.html in the first work directory)")
    evaluate.add_arguments(parser)
    arguments = vars(parser.parse_args())
    workdirs, output, data_dir = arguments.pop("workdir"), arguments.pop("output"), arguments.pop("data_dir")
    with needs("evaluate", command=True):  # after --help
        from rvae_jax.inference import load
        from rvae_jax.report_page import make_report
        from rvae_jax.workdir import open_workdir, write_whole
    try:
        models = [load(workdir, data_dir=data_dir) for workdir in workdirs]
        page = make_report(models, evaluate.settings_of(arguments))
        path = open_workdir(output) if output else models[0].workdir / FILE
        write_whole(path, page.encode())
    except UserError as error:
        sys.exit(f"Error: {error}")
    print(f"Wrote {path}: open it in a browser")


if __name__ == "__main__":
    main()
