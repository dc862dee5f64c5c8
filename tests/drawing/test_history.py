import numpy as np
from etils import epath

from rvae_jax.drawing import grids, history

SHAPE = (32, 32, 1)


def save(folder, name, *levels):
    rows = [np.full((10, *SHAPE), level / 127.5 - 1) for level in levels]
    grids.save_png(epath.Path(folder) / "pictures" / f"{name}.png", grids.grid(rows))


def shades(figure):
    return [int(figure.frames[0][2 + 34 * row + 16, 18, 0]) for row in range(len(figure.rows))]


def test_one_row_for_each_of_at_most_eight_steps_from_the_first_to_the_last(tmp_path):
    for step in range(0, 201, 10):
        save(tmp_path, f"samples_{step:08d}", step, 1, 2)
        save(tmp_path, f"reconstructions_{step:08d}", 250, step, 3, 4)
    save(tmp_path, "samples", 7, 7, 7)  # of the best checkpoint
    save(tmp_path, "transition_00000010", 7)
    found = dict(history.draw(epath.Path(tmp_path), SHAPE))
    assert list(found) == ["reconstructions_over_steps", "samples_over_steps"]
    samples, reconstructions = found["samples_over_steps"], found["reconstructions_over_steps"]
    assert len(samples.rows) == 8 and (samples.rows[0], samples.rows[-1]) == ("step 0", "step 200")
    assert shades(samples) == [int(label.removeprefix("step ")) for label in samples.rows]
    assert reconstructions.rows == ("image", *samples.rows)
    assert shades(reconstructions) == [250, *shades(samples)]


def test_pictures_of_one_step_or_of_another_size_are_no_history(tmp_path):
    folder = epath.Path(tmp_path)
    assert list(history.draw(folder, SHAPE)) == []
    save(tmp_path, "samples_00000010", 1)
    assert list(history.draw(folder, SHAPE)) == []
    save(tmp_path, "samples_00000020", 1)
    assert [name for name, _ in history.draw(folder, SHAPE)] == ["samples_over_steps"]
    assert list(history.draw(folder, (40, 40, 3))) == []
