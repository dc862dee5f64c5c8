import collections
import dataclasses
import os
import pickle
import subprocess
import sys
import unicodedata

import numpy as np
from archives import opened

from rvae_jax.data.prepare.sources.source import Source, folder_of, order_key


def test_the_rule_of_the_split_is_told():
    source = _source(["a/b.png"])
    assert source.split_rule == "80, 10 and 10 % by a hash of each picture's name"
    by_folder = dataclasses.replace(source, group=folder_of)
    assert pickle.loads(pickle.dumps(by_folder)).split_rule == "80, 10 and 10 % by a hash of each picture's folder"
    by_partition = dataclasses.replace(by_folder, splits={"a/b.png": "train"})
    assert by_partition.split_rule == "by the source's own partition"


def _source(names, **options):
    return Source("cats", dict.fromkeys(names, 1), str.encode, **options)


TEN_THOUSAND = [f"person {i % 500}/{i}.jpg" for i in range(10_000)]


def test_the_shares_of_the_splits_are_80_10_10():
    counts = collections.Counter(map(_source(TEN_THOUSAND).split, TEN_THOUSAND))
    assert abs(counts["train"] - 8000) < 4 * np.sqrt(10_000 * 0.8 * 0.2)
    assert abs(counts["validation"] - 1000) < 4 * np.sqrt(10_000 * 0.1 * 0.9)
    assert abs(counts["test"] - 1000) < 4 * np.sqrt(10_000 * 0.1 * 0.9)


def test_a_split_depends_on_the_name_alone():
    some, all_of_them = _source(TEN_THOUSAND[:100]), _source(TEN_THOUSAND)
    assert [some.split(name) for name in TEN_THOUSAND[:100]] == [all_of_them.split(name) for name in TEN_THOUSAND[:100]]
    # For ever: else what was trained on is tested on.
    forever = {"a/18.png": "train", "a/27.png": "validation", "a/29.png": "validation", "a/9.png": "test"}
    assert {name: all_of_them.split(name) for name in forever} == forever


def test_the_order_is_the_same_in_another_process():
    script = (
        "import sys; from rvae_jax.data.prepare.sources.source import order_key\n"
        "print(*(order_key(name).hex() for name in sys.argv[1:]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    names = ["a.png", "b/ü.png"]
    found = subprocess.run([sys.executable, "-c", script, *names], env=environment, capture_output=True, check=True)
    assert found.stdout.decode().split() == [order_key(name).hex() for name in names]


def test_the_order_is_the_same_in_either_form_of_unicode():
    for name in ("ü/é.png", "한국.png", "Å.png"):
        composed, decomposed = unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)
        assert composed != decomposed
        assert order_key(composed) == order_key(decomposed)
    assert order_key("é.png") != order_key("e.png")


def test_group_keeps_folders_together():
    source = _source(TEN_THOUSAND, group=folder_of)
    splits = collections.defaultdict(set)
    for name in TEN_THOUSAND:
        splits[name.partition("/")[0]].add(source.split(name))
    assert len(splits) == 500
    assert all(len(of_folder) == 1 for of_folder in splits.values())
    counts = collections.Counter(split for of_folder in splits.values() for split in of_folder)
    assert abs(counts["train"] - 400) < 4 * np.sqrt(500 * 0.8 * 0.2)
    assert min(counts["validation"], counts["test"]) > 20


def test_the_folder_of_a_name_is_its_parent():
    assert folder_of("a/b/c.png") == "a/b"
    assert folder_of("c.png") == "."


def test_held_out_folders_stay_together_where_asked(tmp_path):
    for split in ("train", "val"):
        for number in range(200):
            path = tmp_path / split / f"person {number // 10}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    source = dataclasses.replace(opened(tmp_path), group=folder_of)
    splits = collections.defaultdict(set)
    for name in source.files:
        splits[folder_of(name)].add(source.split(name))
    assert all(len(found) == 1 for found in splits.values())
    held_out = {folder: found.pop() for folder, found in splits.items() if folder.startswith("val")}
    assert set(held_out.values()) == {"validation", "test"}
    by_file = dataclasses.replace(source, group=str)
    assert {source.split(name) for name in source.files if name.startswith("train")} == {"train"}
    assert any(by_file.split(name) != source.split(name) for name in source.files)
