"""Draws the imports between the folders of rvae_jax, for docs/architecture.md: python docs/plot_architecture.py.

The order of the folders is that of the layers in pyproject.toml; an import that the order forbids ends the script.
"""

import collections
import pathlib
import sys
import tomllib

import grimp
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "rvae_jax"
Imports = dict[tuple[str, str], list[str]]

STEP_X, STEP_Y, WIDTH, HEIGHT = 0.52, 0.42, 1.25, 0.29  # inches: from box to box, and a box
INK, BANDS = "#33415c", ("#f4f6fa", "#ffffff")
LEGEND = """The line to the right of a folder has a dot for each folder
that it imports; the arrow below the dot leads there.
The larger the dot, the more imports.

A band is a layer. A layer may import those below it.
Folders in one band do not import each other."""
COLORS = ("#3b6fb6", "#c2572b", "#2d8a63", "#8a4fa3", "#b8860b", "#4a90a4", "#a83e5b", "#5d7d2f")


def read_layers() -> list[list[str]]:
    """The lines of the import contract, top first, each with the names that share it, without ``rvae_jax.``."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (contract for contract in settings["contracts"] if contract["type"] == "layers")
    return [[name.strip().removeprefix(f"{PACKAGE}.") for name in line.split("|")] for line in contract["layers"]]


def read_imports() -> Imports:
    """The imports between top-level modules and folders: (importer, imported) to the lines that say so."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    imports = collections.defaultdict(list)
    for importer in sorted(graph.modules - {PACKAGE}):  # rvae_jax itself has rvae_jax.load, from inference
        for imported in sorted(graph.find_modules_directly_imported_by(importer) - {PACKAGE}):
            ends = importer.split(".")[1], imported.split(".")[1]
            if ends[0] != ends[1]:
                imports[ends].append(f"{importer} imports {imported}")
    return imports


def require_order(layers: list[list[str]], imports: Imports) -> None:
    """Ends the script unless every import leads from a layer to one below it."""
    level = {name: number for number, line in enumerate(layers) for name in line}
    unknown = {name for ends in imports for name in ends} - level.keys()
    if unknown:
        sys.exit(f"Error: in no layer of pyproject.toml: {', '.join(sorted(unknown))}")
    forbidden = [line for (a, b), lines in imports.items() if level[a] >= level[b] for line in lines]
    if forbidden:
        sys.exit("\n".join(["Error: these imports do not lead downwards:", *forbidden]))


def merge_commands(layers: list[list[str]], imports: Imports) -> tuple[list[list[str]], Imports]:
    """One box for the commands, the line with most names, and for what is above them: ``__main__``, which runs them."""
    below = layers.index(max(layers, key=len)) + 1
    commands = {name for line in layers[:below] for name in line}
    merged = collections.defaultdict(list)
    for (importer, imported), lines in imports.items():
        if imported not in commands:
            merged["commands" if importer in commands else importer, imported] += lines
    return [["commands"], *layers[below:]], merged


def draw(layers: list[list[str]], imports: Imports, path: pathlib.Path) -> None:
    """A staircase: a line runs right from each importer, and from a dot on it down to what is imported."""
    names = [name for line in layers for name in line]
    left = {name: number * STEP_X for number, name in enumerate(names)}
    middle = {name: -number * STEP_Y for number, name in enumerate(names)}
    entry = {name: left[name] + WIDTH - STEP_X / 2 for name in names}
    size = left[names[-1]] + WIDTH + 0.2, -middle[names[-1]] + STEP_Y + 0.1
    figure = plt.figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.1, size[0] - 0.1), ylim=(middle[names[-1]] - 0.26, 0.26))
    axes.axis("off")
    for number, line in enumerate(layers):
        bottom = middle[line[-1]] - STEP_Y / 2
        axes.axhspan(bottom, middle[line[0]] + STEP_Y / 2, color=BANDS[number % 2], linewidth=0, zorder=0)
    for number, importer in enumerate(names):
        color = COLORS[number % len(COLORS)]
        found = {imported: len(lines) for (start, imported), lines in imports.items() if start == importer}
        if found:
            reach = max(entry[imported] for imported in found)
            axes.plot([left[importer] + WIDTH, reach], [middle[importer]] * 2, color=color, linewidth=1.3, zorder=2)
            dots = [entry[imported] for imported in found]
            areas = [14 + 7 * count for count in found.values()]
            axes.scatter(dots, [middle[importer]] * len(dots), areas, color=color, edgecolor="white", zorder=4)
        box = (left[importer], middle[importer] - HEIGHT / 2), WIDTH, HEIGHT
        style = "round,pad=0,rounding_size=0.07"
        axes.add_patch(FancyBboxPatch(*box, boxstyle=style, facecolor=color, edgecolor="none", zorder=5))
        label = {"x": left[importer] + WIDTH / 2, "y": middle[importer] - 0.01, "s": importer}
        axes.text(**label, color="white", weight="bold", fontsize=10, ha="center", va="center", zorder=6)
    for imported in names:
        starts = [middle[importer] for importer, target in imports if target == imported]
        if starts:
            arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0, "alpha": 0.75}
            end = entry[imported], middle[imported] + HEIGHT / 2
            axes.annotate("", end, (entry[imported], max(starts)), arrowprops=arrow, zorder=3)
    axes.text(0.1, middle[names[-1]] - 0.05, LEGEND, color=INK, fontsize=10.5, linespacing=1.5, va="bottom", zorder=6)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    layers, imports = read_layers(), read_imports()
    require_order(layers, imports)
    draw(*merge_commands(layers, imports), ROOT / "docs" / "images" / "architecture.png")
