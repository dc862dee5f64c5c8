import io
import re

import numpy as np
import pytest
from PIL import Image
from trained_runs import FACTORS, SIZE, run_command, waves

from rvae_jax import figures as figures_command
from rvae_jax.drawing import figures
from rvae_jax.drawing.scene import Scene


def test_every_figure_is_drawn_at_native_resolution(workdir, monkeypatch, capsys):
    run_command(figures_command, monkeypatch, f"--workdir={workdir}")
    files = {}
    for path in (workdir / "figures").iterdir():
        with Image.open(path) as image:
            files[path.name] = (image.size, getattr(image, "n_frames", 1))
    assert set(files) == {
        "reconstructions.png",
        *(f"samples_{name}.png" for name in ("prior", "gaussian", "mixture")),
        "transitions_linear.png",
        "transitions_spherical.png",
        "transition_animated.webp",
        *(f"variants_{name}.png" for name in ("released", "active", "principal")),
        "attributes.png",
        "neighbours.png",
    }
    assert files["samples_prior.png"][0] == (10 * (SIZE + 2) + 2, 3 * (SIZE + 2) + 2)
    assert files["attributes.png"][0] == (7 * (SIZE + 2) + 2, 2 * (SIZE + 2) + 2)
    assert files["transition_animated.webp"][1] == 46
    printed, progress = capsys.readouterr()
    assert "bright, tilted" in printed and all(name in printed for name in files)
    assert "drawing: codes of training images: 100%" in progress and "drawing: 100%" in progress
    assert all(name.split(".")[0] in progress for name in files)


def test_transitions_have_the_images_at_their_ends(healthy):
    images = healthy.images("validation", 4)
    drawn = figures.transitions(Scene(healthy, images), "linear").frames[0]
    tile = drawn[2 : 2 + SIZE, 2 : 2 + SIZE, 0]
    assert np.abs(tile.astype(int) - np.round((images[0, ..., 0] + 1) * 127.5)).max() <= 1
    second = drawn[2 : 2 + SIZE, 2 + SIZE + 2 : 2 + 2 * SIZE + 2, 0]
    decoded = np.clip(healthy.reconstruct(images[:1])[0, ..., 0], -1, 1)
    assert np.abs(second.astype(int) - np.round((decoded + 1) * 127.5)).max() <= 1


def test_an_attribute_direction_changes_that_attribute(healthy):
    direction = figures.attribute_directions(Scene(healthy))["bright"]
    images = waves(200, 9)[0][..., None] / np.float32(127.5) - 1
    mean, _ = healthy.encode(images.astype(np.float32))
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    a, b, c = np.random.default_rng(1).uniform(-2.5, 2.5, (FACTORS, 3))[0]
    change = healthy.decode(mean + direction) - healthy.decode(mean)
    wave = np.cos(np.pi * (a * x + b * y) + c)
    assert np.corrcoef(change.mean(0)[..., 0].ravel(), wave.ravel())[0, 1] > 0.9


def test_figures_of_the_users_own_pictures(workdir, monkeypatch, capsys, tmp_path):
    for number in range(3):
        colours = np.full((50, 70 + number, 3), 60 * number, np.uint8)
        Image.fromarray(colours).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pictures = [tmp_path / name for name in ("0.png", "1.png", "2.png")]
    run_command(figures_command, monkeypatch, f"--workdir={workdir}", "--pictures", *pictures)
    assert "3 pictures, cropped and resized to 32x32, converted to grey" in capsys.readouterr().out
    with Image.open(workdir / "figures" / "reconstructions.png") as image:
        drawn = np.asarray(image)
    assert [drawn[10, 10 + (SIZE + 2) * i, 0] for i in range(3)] == [0, 60, 120]
    alone = tmp_path / "alone"
    run_command(figures_command, monkeypatch, f"--workdir={workdir}", f"--output={alone}", "--pictures", pictures[0])
    said = capsys.readouterr().out
    assert re.search("Left out: .*transitions.*: 1 image; expected at least 2, for the transitions", said)
    names = {path.stem for path in alone.iterdir()}
    assert "reconstructions" in names and not any("transition" in name for name in names)
    with pytest.raises(SystemExit, match=r"Error: --output=.*broken\.png: cannot be written"):
        run_command(figures_command, monkeypatch, f"--workdir={workdir}", f"--output={tmp_path / 'broken.png'}")
    with pytest.raises(SystemExit, match=r"broken\.png"):
        run_command(figures_command, monkeypatch, f"--workdir={workdir}", "--pictures", tmp_path / "broken.png")


def test_figures_that_need_missing_data_are_left_out(healthy, tmp_path):
    config = healthy.config
    data_dir, config.data.data_dir = config.data.data_dir, str(tmp_path)
    warnings = []
    try:
        drawn = dict(figures.draw(Scene(healthy), {"samples_prior", "neighbours"}, warnings.append))
    finally:
        config.data.data_dir = data_dir
    assert list(drawn) == ["samples_prior"]
    assert len(warnings) == 1 and warnings[0].startswith("Left out: neighbours: ")


def test_an_animation_plays_forwards_and_backwards():
    frames = [np.full((4, 4, 3), 40 * i, np.uint8) for i in range(5)]
    content, suffix = figures.Figure(frames, "").encoded()
    assert suffix == "webp"
    image = Image.open(io.BytesIO(content))
    assert image.n_frames == 8
