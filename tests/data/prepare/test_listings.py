import dataclasses
import json
import re
import shutil
from pathlib import Path

from making import (
    SMALL_SHARDS,
    add_broken,
    encode,
    make_pixels,
    open_pictures,
    prepare,
    prepare_error,
    published,
    read_examples,
    read_images,
    read_rows,
    read_tree,
)

from rvae_jax.data.prepare import listings


def test_skipped_pictures_are_listed_with_reasons(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    whole = "na\udcefve.png"
    (folder / whole).write_bytes(encode(make_pixels(77)))
    broken = add_broken(folder)
    (made,) = prepare(folder, data_dir, options={"max_skipped": 0.5})
    header, *rows = read_rows(made / "skipped.csv")
    assert header == ["name", "reason"]
    assert [name for name, _ in rows] == sorted(broken)
    for name, reason in rows:
        assert broken[name] in reason
        assert "\n" not in reason
    names = set(read_images(data_dir))
    assert names == {f"{i:03d}.png".encode() for i in range(40)} | {b"na\xefve.png"}


def test_names_of_files_are_no_formulas_and_control_no_terminal(tmp_path, capsys):
    names = ["=cmd|'x'!A1.png", "@sum(A1).png", "+1=2.png", "-001.png", "é.png", "a\x1b[2Jb.png", "na\udcefve.png"]
    listings.write_skipped(tmp_path / "skipped.csv", [(name, "too small") for name in names])
    found = [name for name, _ in read_rows(tmp_path / "skipped.csv")[1:]]
    assert found == ["'" + name for name in names[:3]] + ["-001.png", "é.png", "a\\x1b[2Jb.png", "na\udcefve.png"]
    assert "such as a\\x1b[2Jb.png (too small)" in listings.frequent_reasons([(names[5], "too small")])
    assert "such as na\\udcefve.png (too small)" in listings.frequent_reasons([(names[6], "too small")])


def test_too_many_skipped_publish_nothing_and_more_may_be_allowed(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    broken = add_broken(folder)
    source = open_pictures(folder)
    read = []

    def counting(name):
        read.append(name)
        return source.read(name)

    source_counting = dataclasses.replace(source, read=counting)
    message = prepare_error(source_counting, data_dir, options=SMALL_SHARDS | {"max_skipped": 0.05})
    assert "of 51 pictures are unusable" in message
    assert "--max_skipped=0.05" in message
    assert published(data_dir) == []
    listing = Path(message.partition("listed in ")[2].partition(";")[0])
    listed = {name for name, _ in read_rows(listing)[1:]}
    assert len(listed) > 0.05 * 51
    assert listed <= set(broken)

    before = len(read)
    prepare(source_counting, data_dir, options=SMALL_SHARDS | {"max_skipped": 0.5})
    assert before >= 8
    assert sorted(read) == sorted(source.files)  # each once
    prepare(source, tmp_path / "undisturbed", options=SMALL_SHARDS | {"max_skipped": 0.5})
    assert read_tree(data_dir) == read_tree(tmp_path / "undisturbed")


def test_a_share_of_exactly_max_skipped_is_allowed(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    for i in range(4):
        (folder / f"{i:03d}.png").write_bytes(b"")
    assert re.search("[34] of 40", prepare_error(folder, data_dir, options={"max_skipped": 0.05}))
    prepare(folder, data_dir, options={"max_skipped": 0.1})
    assert published(data_dir) == ["16"]


def test_other_files_are_counted_and_ignored(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "__MACOSX").mkdir()
    for name in ("notes.txt", "more.TXT", "README", ".hidden.png", "__MACOSX/000.png"):
        (folder / name).write_bytes(encode(make_pixels(1)))
    (folder / "loop").symlink_to(folder)
    (made,) = prepare(folder, data_dir)
    ignored = json.loads((made / "summary.json").read_text())["ignored_files"]
    assert ignored == {".txt": 2, "hidden": 2, "without a suffix": 1}
    assert len(read_images(data_dir)) == 40


def test_duplicates_are_listed_across_formats_and_splits(pictures, tmp_path, data_dir):
    folder = shutil.copytree(pictures, tmp_path / "cats")
    (folder / "010_again.bmp").write_bytes(encode(make_pixels(10), "BMP"))
    (folder / "a_copy.png").write_bytes((folder / "003.png").read_bytes())
    for i in range(8):
        (folder / f"same_{i}.png").write_bytes(encode(make_pixels(500)))
    (made,) = prepare(folder, data_dir)
    split_of = {row["name"].decode(): split for split, rows in read_examples(data_dir).items() for row in rows}
    first = {"010_again.bmp": "010.png", "a_copy.png": "003.png"} | {f"same_{i}.png": "same_0.png" for i in range(1, 8)}
    expected = [[name, split_of[name], same, split_of[same]] for name, same in sorted(first.items())]
    assert read_rows(made / "duplicates.csv") == [["name", "split", "same_as", "its_split"], *expected]
    statistics = json.loads((made / "summary.json").read_text())
    crosses = sum(split_of[name] != split_of[same] for name, same in first.items())
    assert crosses > 0
    assert statistics["duplicates"] == 9
    assert statistics["duplicates_in_another_split"] == crosses
