import inspect
from pathlib import Path

import device_cases
import pytest
from cases import CASES

from rvae_jax import losses

DOCUMENT = Path(__file__).parents[2] / "docs" / "objective.md"
FUNCTIONS = {name: getattr(losses, name) for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}

# Signatures that never change, as CHANGELOG.md promises; arguments that are added later have defaults.
FIXED = {
    "l1_reconstruction": "x_hat, x",
    "gaussian_kl": "mean, log_var",
    "variance_regularizer": "log_var, *, target",
    "batch_moments": "mean, log_var, *, axis_name",
    "population_kl": "moments",
    "discriminator_loss": "real_logits, fake_logits, *, kind",
    "generator_loss": "fake_logits, *, kind",
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_names_keep_their_arguments(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    shown = [parameter.name for parameter in parameters]
    keyword_only = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    if keyword_only:
        shown.insert(shown.index(keyword_only[0]), "*")
    assert ", ".join(shown) == FIXED[name]


def test_fixed_types_keep_their_fields():
    assert losses.Moments._fields == ("mean", "var")


def test_table_in_objective_md_lists_what_is_tested():
    table = DOCUMENT.read_text().split("| function | value | gradient | devices |")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    of_devices = {name for case in device_cases.CASES for name in case.split(", ")}
    assert [row[0].strip("`") for row in rows if row[3] == "yes"] == [
        row[0].strip("`") for row in rows if row[0].strip("`") in of_devices
    ]
    assert {row[0].strip("`") for row in rows} == FUNCTIONS.keys()
    compared = {case.split()[0] for case in CASES}
    assert {row[0].strip("`") for row in rows if row[2].startswith(("differences", "stopped", "as stated"))} <= compared


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_describe_arguments_results_and_errors(name):
    text = inspect.getdoc(FUNCTIONS[name])
    if inspect.signature(FUNCTIONS[name]).parameters and not name.startswith("init_"):
        assert "\nArgs:\n" in text
        assert "\nReturns:\n" in text
        assert ("\nRaises:\n" in text) == (name != "ramp")
        for parameter in inspect.signature(FUNCTIONS[name]).parameters:
            assert f"\n  {parameter}: " in text
