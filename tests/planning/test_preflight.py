"""Complete preflights; those for TPUs need libtpu, those for GPUs JAX's CUDA plugin."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import re

import pytest
from small_runs import TINY

from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.planning import compilation
from rvae_jax.planning.compilation import CompiledStep
from rvae_jax.planning.isolated import NotCompiledError
from rvae_jax.planning.preflight import preflight


@pytest.fixture
def with_compilers(monkeypatch, tmp_path):
    """The TPU compiler seems to be installed, and nothing is cached."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        (
            "v9:4x4",
            "--topology=v9:4x4: expected v5e, v5p, v6e with a slice's shape in chips, such as v5e:4x4, or h100,",
        ),
        ("v5e", "--topology=v5e: expected"),
        ("h100:3", "--topology=h100:3: expected one of h100:1 2 4 8"),
        ("h100:2x2", "--topology=h100:2x2: expected one of h100:1 2 4 8"),
        ("v5e:4xfour", "--topology=v5e:4xfour: expected one of v5e:2x2 2x4 4x4"),
        ("v5e:32x32", "--topology=v5e:32x32: expected one of"),
        ("v5p:4x4", "--topology=v5p:4x4: expected one of v5p:2x2x1"),
    ],
)
def test_wrong_topologies_are_refused(topology, expected):
    with pytest.raises(UserError, match=re.escape(expected)):
        preflight(Config(batch_size=32), topology)


def test_a_missing_gpu_compiler_is_named(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    with pytest.raises(UserError, match=r"without a GPU; pip install .*\[cuda\]"):
        preflight(Config(), "h200")


def test_a_missing_tpu_compiler_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"without a TPU; pip install .*\[tpu\]"):
        preflight(Config(), "v5e:4x4")


class Compiler:
    """Stands for ``isolated.run``: answers at once, or crashes at batches larger than ``most``."""

    def __init__(self, most=10**9):
        self.most = most
        self.asked = []

    def __call__(self, function, fields, topology, *, what, time_limit_s):
        self.asked.append((topology, fields["batch_size"]))
        if fields["batch_size"] > self.most:
            raise NotCompiledError("the compiler ended with status -11")
        images = fields["batch_size"] // 16
        work = {"flops": 100e9 * images, "bytes_accessed": 1e9 * images}
        return CompiledStep(16, topology, images, memory=fields["batch_size"] * 10**7, **work)


@pytest.mark.usefixtures("with_compilers")
def test_a_large_slice_is_computed_from_the_program_of_a_small_one_and_cached(tmp_path):
    compiler = Compiler()
    said = preflight(Config(batch_size=2048), "v6e:16x16", run=compiler)
    assert compiler.asked == [("v6e:4x4", 128), ("v6e:4x4", 256)]
    assert "256 x TPU v6e (v6e:16x16), a batch of 2048: 8 images per device" in said
    assert "computed   from the program for v6e:4x4, which is the same on each chip" in said
    assert preflight(Config(batch_size=2048), "v6e:16x16", run=compiler) == said
    assert len(compiler.asked) == 2
    cached = list((tmp_path / "rvae_jax/preflight").glob("*.json"))
    assert len(cached) == 2
    for path, content in zip(cached, (b"{", b'{"a": 1}'), strict=True):  # damaged: they are made anew
        path.write_bytes(content)
    assert preflight(Config(batch_size=2048), "v6e:16x16", run=compiler) == said
    assert compiler.asked[2:] == compiler.asked[:2]
    del compiler.asked[2:]
    preflight(Config(batch_size=2048, accumulate_steps=2), "v6e:16x16", run=compiler)
    preflight(Config(batch_size=64), "v5e:4x4", run=compiler)
    second, third = [("v6e:4x4", 128), ("v6e:4x4", 256)], [("v5e:4x4", 64), ("v5e:4x4", 128), ("v5e:4x4", 256)]
    assert compiler.asked[2:] == second + third


@pytest.mark.usefixtures("with_compilers")
def test_a_crash_at_the_larger_batch_leaves_the_rest_of_the_report():
    said = preflight(Config(batch_size=128), "v6e:4x4", run=Compiler(most=128))
    assert "8 images per device, float32" in said and "work  " in said
    assert "largest    unknown, since 16 images per device gave: the compiler ended with status -11" in said


@pytest.mark.usefixtures("with_compilers")
def test_a_crash_at_the_given_batch_is_an_error():
    with pytest.raises(UserError, match="ended with status -11"):
        preflight(Config(batch_size=128), "v6e:4x4", run=Compiler(most=0))


@pytest.mark.usefixtures("with_compilers")
def test_a_sharded_optimizer_is_compiled_for_the_slice_itself():
    compiler = Compiler()
    preflight(Config(batch_size=256, shard_optimizer=True), "v5e:4x8", run=compiler)
    assert compiler.asked[0] == ("v5e:4x8", 256)


def small_config():
    config = Config(batch_size=4)
    for name, value in TINY.items():
        setattr(config.model, name, value)
    return config


def test_local_devices_are_measured(capsys):
    said = preflight(small_config())
    assert re.search(r"^1 x cpu, a batch of 4: 4 images per device, float32$", said, re.M), said
    for line in (
        r"^memory     [\d.]+ MB of [\d.]+ GB: fits$",
        r"^work       [\d.]+ GFLOP and [\d.]+ MB of memory traffic per device and step; [\d.]+ GFLOP per image$",
        r"^exchange   nothing between devices per step$",
        r"^speed      [\d,.]+ images/s, measured, without input$",
        r"^back-test  .* off by a factor of [\d.]+$",
    ):
        assert re.search(line, said, re.M), (line, said)


@pytest.mark.skipif(
    not any("cuda" in each.name for each in importlib.metadata.entry_points(group="jax_plugins")),
    reason="needs JAX's CUDA plugin",
)
@pytest.mark.parametrize("name", ["a100", "h200"])
def test_gpus_are_compiled_for(monkeypatch, tmp_path, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = preflight(dataclasses.replace(small_config(), batch_size=16), f"{name}:2")
    assert re.search(r"^memory     [\d.]+ [kM]B of [\d.]+ GB, .*: fits$", said, re.M), said
    assert re.search(r"^exchange   \d+ all-reduce of", said, re.M)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_tpu_slice_is_compiled_for(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = small_config()
    config.batch_size = 32
    said = preflight(config, "v5e:2x2")
    assert "4 x TPU v5e (v5e:2x2), a batch of 32: 8 images per device" in said
    assert re.search(r"^exchange   \d all-reduce of", said, re.M)
    assert json.loads(next((tmp_path / "rvae_jax/preflight").glob("*.json")).read_text())["flops"] > 0


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_the_program_of_a_chip_is_the_same_in_a_larger_slice(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    for topology, chips in (("v5e:4x4", 16), ("v5e:16x16", 256)):
        config = dataclasses.replace(small_config(), batch_size=8 * chips)
        found.append(compilation.compile_for_topology(config, topology, chips, time_limit_s=600))
    small, large = found
    assert large.work == small.work and large.collectives == small.collectives
    assert large.memory == pytest.approx(small.memory, rel=0.05)
