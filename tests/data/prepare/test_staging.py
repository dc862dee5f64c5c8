import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from making import (
    SMALL_SHARDS,
    TWO_SHAPES,
    Interruption,
    encode,
    fill,
    interrupted_at,
    make_pixels,
    open_pictures,
    prepare,
    prepare_error,
    prepare_in_part,
    prepare_two,
    published,
    read_tree,
)


def test_a_data_set_that_is_removed_is_never_there_in_part(pictures, tmp_path, data_dir):
    other = fill(tmp_path / "dogs", first=40)
    prepare(pictures, data_dir, (16, 16, 3), (12, 12, 3))
    before = read_tree(data_dir / "cats/12")
    assert _killed_while_removing(other, data_dir, options={"replace": True})
    assert read_tree(data_dir / "cats/12") in ({}, before)
    prepare(other, data_dir, options={"replace": True})
    prepare(other, tmp_path / "fresh")
    assert read_tree(data_dir) == read_tree(tmp_path / "fresh")


def _killed_while_removing(*args, **kwargs):
    def remove(path, **_):
        files = [file for file in Path(path).rglob("*") if file.is_file()]
        if files:
            files[0].unlink()
            raise Interruption

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(shutil, "rmtree", remove)
        prepare(*args, **kwargs)
    return True


def test_what_a_process_killed_at_its_end_left_is_removed(pictures, data_dir, capsys):
    assert _killed_while_removing(pictures, data_dir, *TWO_SHAPES)
    staging = data_dir / "cats" / "incomplete"
    assert staging.exists()
    before = {config: read_tree(data_dir / f"cats/{config}") for config in ("16", "12x20_grey")}
    prepare(pictures, data_dir)
    assert "Already prepared" in capsys.readouterr().out
    assert not staging.exists()
    assert {config: read_tree(data_dir / f"cats/{config}") for config in before} == before


def test_what_was_begun_of_another_size_is_kept(pictures, data_dir, capsys):
    prepare(pictures, data_dir)
    assert prepare_in_part(pictures, data_dir, shards=1)
    half_done = read_tree(data_dir / "cats" / "incomplete")
    assert half_done
    prepare(pictures, data_dir)
    assert "Already prepared" in capsys.readouterr().out
    assert read_tree(data_dir / "cats" / "incomplete") == half_done


def test_processes_write_the_same_bytes(broken_pictures, undisturbed, data_dir):
    prepare_two(broken_pictures, data_dir, processes=2, worth_processes=1)
    assert read_tree(data_dir) == undisturbed


def _interrupt_at(monkeypatch, owner, name, number):
    """Raises instead of the call of that number; returns the calls so far."""
    method, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise Interruption
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_it_goes_on_after_each_shard(broken_pictures, undisturbed, data_dir, capsys):
    interruptions = 0
    while prepare_in_part(broken_pictures, data_dir, shards=1):
        interruptions += 1
        assert published(data_dir) == []
        assert interruptions < 20
    assert interruptions >= 5
    assert read_tree(data_dir) == undisturbed
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Goes on after 8 of 51")]


@pytest.mark.parametrize("number", [1, 8, 30, 51])
def test_it_goes_on_within_a_shard(broken_pictures, undisturbed, data_dir, number):
    source = open_pictures(broken_pictures)
    read = []

    def interrupted(name):
        read.append(name)
        if len(read) == number:
            raise Interruption
        return source.read(name)

    disturbed = dataclasses.replace(source, read=interrupted)
    with pytest.raises(Interruption):
        prepare_two(disturbed, data_dir)
    prepare_two(disturbed, data_dir)
    assert read_tree(data_dir) == undisturbed
    assert len(read) <= 51 + 8


@pytest.mark.parametrize("method", ["rename", "replace"])
def test_it_goes_on_from_between_any_two_changes_on_the_disk(broken_pictures, undisturbed, tmp_path, method):
    with pytest.MonkeyPatch.context() as patch:
        calls = _interrupt_at(patch, os, method, None)
        prepare_two(broken_pictures, tmp_path / "counted")
    assert len(calls) >= 2
    for number in [*range(1, len(calls) - 3, 12), *range(len(calls) - 3, len(calls) + 1)]:
        data_dir = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interruption):
            _interrupt_at(patch, os, method, number)
            prepare_two(broken_pictures, data_dir)
        for config in published(data_dir):
            prefix = f"cats/{config}/"
            found = {f"{prefix}{name}": content for name, content in read_tree(data_dir / prefix).items()}
            assert found == {name: content for name, content in undisturbed.items() if name.startswith(prefix)}
        prepare_two(broken_pictures, data_dir)
        assert read_tree(data_dir) == undisturbed
        shutil.rmtree(data_dir)


@pytest.mark.parametrize("number", [2, 3])
def test_a_replacement_goes_on_from_between_its_renames(pictures, broken_pictures, undisturbed, data_dir, number):
    prepare(pictures, data_dir, *TWO_SHAPES)
    rename, renames = Path.rename, []

    def counted(path, target):
        renames.append(target.name == "1.0.0" or path.name == "1.0.0")
        if sum(renames) == number:
            raise Interruption
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(Path, "rename", counted)
        prepare_two(broken_pictures, data_dir, replace=True)
    prepare_two(broken_pictures, data_dir, replace=True)
    assert read_tree(data_dir) == undisturbed


def test_one_of_the_shapes_that_were_begun_goes_on_alone(broken_pictures, undisturbed, data_dir):
    assert prepare_in_part(broken_pictures, data_dir, shards=3)
    prepare(broken_pictures, data_dir, TWO_SHAPES[1], options=SMALL_SHARDS | {"max_skipped": 0.5})
    expected = {name: content for name, content in undisturbed.items() if name.startswith("cats/12x20_grey/")}
    assert read_tree(data_dir) == expected


def test_shards_of_another_size_begin_anew(broken_pictures, undisturbed, data_dir, capsys):
    with pytest.raises(Interruption):
        prepare_two(interrupted_at(open_pictures(broken_pictures), 17), data_dir, shard_pictures=4)
    prepare_two(broken_pictures, data_dir)
    assert "begins anew" in capsys.readouterr().out
    assert read_tree(data_dir) == undisturbed


def test_a_plan_of_an_earlier_version_goes_on(tmp_path, data_dir, capsys):
    many = fill(tmp_path / "many", 30)
    for part in ("train", "val", "test"):
        shutil.copytree(many, tmp_path / "split" / part)
    with pytest.raises(Interruption):
        prepare(interrupted_at(open_pictures(tmp_path / "split"), 31), data_dir)
    plan = data_dir / "cats/incomplete/plan.json"
    fields = json.loads(plan.read_text())
    assert fields.pop("shard_pictures") == 1024
    plan.write_text(json.dumps(fields))
    prepare(tmp_path / "split", data_dir)
    assert "Goes on after 30 of 90 pictures" in capsys.readouterr().out


def test_asking_for_what_is_prepared_keeps_what_was_begun(broken_pictures, data_dir, capsys):
    prepare(broken_pictures, data_dir, options={"max_skipped": 0.5})
    assert prepare_in_part(broken_pictures, data_dir, shards=3)
    prepare(broken_pictures, data_dir, options={"max_skipped": 0.5})
    prepare_two(broken_pictures, data_dir)
    assert "Goes on after 24 of 51 pictures" in capsys.readouterr().out


def test_a_wrong_option_keeps_what_was_begun(broken_pictures, data_dir, capsys):
    assert prepare_in_part(broken_pictures, data_dir, shards=3)
    assert "--detector=no_such:find" in prepare_error(broken_pictures, data_dir, *TWO_SHAPES, detector="no_such:find")
    prepare_two(broken_pictures, data_dir)
    assert "Goes on after 24 of 51 pictures" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["added", "renamed", "other_size"])
def test_a_changed_folder_begins_anew(pictures, tmp_path, data_dir, change, capsys):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    assert prepare_in_part(folder, data_dir, shards=3)
    if change == "added":
        (folder / "new.png").write_bytes(encode(make_pixels(1)))
    elif change == "renamed":
        (folder / "011.png").rename(folder / "new.png")
    else:
        (folder / "011.png").write_bytes(encode(make_pixels(1, 60, 60)))
    prepare_two(folder, data_dir)
    assert "of other pictures, sizes or settings: begins anew" in capsys.readouterr().out
    prepare_two(folder, tmp_path / "fresh")
    assert read_tree(data_dir) == read_tree(tmp_path / "fresh")


@pytest.mark.parametrize("plan", [None, "", '{"fingerprint": 1, "shapes": 2}'])
def test_a_staging_folder_of_something_else_is_cleared(broken_pictures, undisturbed, data_dir, plan):
    staging = data_dir / "cats/incomplete"
    (staging / "16/whole").mkdir(parents=True)
    for name in ("shard_00000.json", "16_00000.array_record", "16/whole/cats-train.array_record-00000-of-00004"):
        (staging / name).write_text("nonsense")
    if plan is not None:
        (staging / "plan.json").write_text(plan)
    prepare_two(broken_pictures, data_dir)
    assert read_tree(data_dir) == undisturbed


def test_parts_that_a_killed_process_left_are_removed(broken_pictures, data_dir):
    """They may be what fills the disk, and those in ``whole`` would be published."""
    assert prepare_in_part(broken_pictures, data_dir, shards=3)
    staging = data_dir / "cats/incomplete"
    parts = [staging / f"{name}.99999999.part" for name in ("16_00003.array_record", "16/whole/skipped.csv")]
    for part in parts:
        part.write_bytes(bytes(1000))
    assert prepare_in_part(broken_pictures, data_dir, shards=1)
    assert staging.is_dir()
    assert not any(part.exists() for part in parts)
