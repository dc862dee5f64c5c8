"""What the preflight makes of compilations; those for TPUs need libtpu, those for GPUs JAX's CUDA plugin."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import re

import pytest
from small_runs import TINY

from rvae_jax.config import Config
from rvae_jax.errors import UserError
from rvae_jax.hardware import accelerators, cost
from rvae_jax.planning import compilation
from rvae_jax.planning.preflight import _report, preflight

V5E = accelerators.ACCELERATORS["v5e"]


def compiled(images, memory, **changes):
    fields = {"devices": 16, "device_kind": V5E.kind, "images": images, "memory": memory} | changes
    return compilation.Compiled(**{"flops": 100e9 * images, "bytes_accessed": 1e9 * images} | fields)


def report(first, small, large):
    config = Config(batch_size=first.images * first.devices)
    return "\n".join(_report(config, "v5e:4x4", first, small, large))


def test_largest_batch_is_on_the_line_through_two():
    small, large = compiled(8, 2_000_000_000), compiled(16, 4_000_000_000)
    said = report(small, small, large)
    assert "16 x TPU v5e (v5e:4x4), a batch of 128: 8 images on each, float32" in said
    assert "2.00 GB of 17.18 GB: fits" in said
    # 0.9 * 17.18 GB at 0.25 GB an image are 61.8 images, of which 56 are a multiple of 8.
    assert "56 images on each should fit, a batch of 896: not tried" in said


def test_what_does_not_fit_is_said():
    small, large = compiled(8, 16_000_000_000), compiled(16, 31_000_000_000)
    assert "16.00 GB of 17.18 GB: does not fit" in report(small, small, large)
    refused = compiled(8, 0, fits=False, reason="RESOURCE_EXHAUSTED: 20G of 16G")
    said = report(refused, refused, large)
    assert "does not fit: RESOURCE_EXHAUSTED: 20G of 16G" in said
    assert "speed" not in said and "largest" not in said
    said = report(small, small, compiled(16, 0, fits=False, reason="RESOURCE_EXHAUSTED: 20G of 16G"))
    assert "largest    not known, since 16 images on each gave: RESOURCE_EXHAUSTED: 20G of 16G" in said
    crashed = compiled(8, 0, fits=False, reason="the compiler ended with status -11")
    said = report(compiled(4, 4_000_000_000), crashed, large)
    assert "largest    not known, since 8 images on each gave: the compiler ended with status -11" in said


def test_a_share_that_is_no_multiple_of_eight_is_advised_against():
    said = report(compiled(4, 4_000_000_000), compiled(8, 2_000_000_000), compiled(16, 4_000_000_000))
    assert "4 images on each is no multiple of 8: 8 take 2.00 GB and 8.00 GB of traffic" in said


@pytest.mark.parametrize(("measured", "shown"), [(50.0, True), (20.0, False), (999.0, False)])
def test_speed_is_shown_only_where_the_rule_has_held(monkeypatch, measured, shown):
    test = accelerators.Measurement("a machine", "a step", measured, (30.0, 120.0))
    monkeypatch.setattr(accelerators, "MEASURED", (test,))
    small = compiled(8, 2_000_000_000, collectives={"all-reduce": (6, 45_000_000)})
    said = report(small, small, compiled(16, 4_000_000_000))
    # 0.8 TFLOP at 197 TFLOP/s, 8 GB at 819 GB/s, 2 * 15 / 16 * 45 MB at 200 GB/s: 4.06, 9.77, 0.42 ms for 128 images.
    assert ("4,491 to 13,104 images/s predicted" in said) == shown
    assert ("speed      unknown, at most 13,104 images/s: where it could be tested" in said) == (not shown)
    assert f"30 to 120 predicted, {measured:.3g} measured" in said
    assert "6 all-reduce of 45.0 MB a step" in said
    assert "efficiency at least 95.9% of 16 single chips" in said


def test_the_rule_is_a_bound_where_it_was_tested():
    for each in accelerators.MEASURED:
        assert each.images_per_second < each.predicted[1]


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
def test_wrong_topologies_are_refused(monkeypatch, topology, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=re.escape(expected)):
        preflight(Config(batch_size=32), topology)


def test_the_gpu_compiler_may_be_missing(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    with pytest.raises(UserError, match=r"pip install 'rvae_jax\[cuda\]'"):
        preflight(Config(), "h200")


def test_a_gpu_has_what_jax_takes_of_its_memory():
    # 0.75 * 151.4 GB are 113.5 GB: between 50 and 100 images at 1 GB each and 20 GB more.
    small, large = (compiled(n, 20 * 10**9 + n * 10**9, devices=2, flops=None, bytes_accessed=None) for n in (50, 100))
    said = "\n".join(_report(Config(batch_size=100), "h200:2", small, small, large))
    assert "2 x NVIDIA H200 SXM (h200:2), a batch of 100: 50 images on each" in said
    assert "70.00 GB of 151.40 GB, of which JAX takes 75% unless XLA_PYTHON_CLIENT_MEM_FRACTION is set: fits" in said
    assert "88 images on each should fit, a batch of 176" in said
    assert "work       not known" in said and "speed" not in said


def test_the_tpu_compiler_may_be_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rvae_jax\[tpu\]'"):
        preflight(Config(), "v5e:4x4")


@pytest.fixture
def compilations(monkeypatch, tmp_path):
    """What would be compiled, in this process, at once."""
    asked = []

    def isolated(function, arguments, *_):
        fields, topology = arguments
        asked.append((topology, fields["batch_size"]))
        return compiled(fields["batch_size"] // 16, fields["batch_size"] * 10**7)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(compilation, "_isolated", isolated)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return asked


def test_a_large_slice_is_computed_from_a_small_ones_program_and_kept(compilations, tmp_path):
    said = preflight(Config(batch_size=2048), "v6e:16x16")
    assert compilations == [("v6e:4x4", 128), ("v6e:4x4", 256)]
    assert "256 x TPU v6e (v6e:16x16), a batch of 2048: 8 images on each" in said
    assert "computed   from the program for v6e:4x4, which is the same on each chip" in said
    assert preflight(Config(batch_size=2048), "v6e:16x16") == said
    assert len(compilations) == 2
    assert len(list((tmp_path / "rvae_jax/preflight").glob("*.json"))) == 2
    preflight(Config(batch_size=2048, accumulate_steps=2), "v6e:16x16")
    preflight(Config(batch_size=64), "v5e:4x4")
    assert compilations[2:] == [("v6e:4x4", 128), ("v6e:4x4", 256), ("v5e:4x4", 64), ("v5e:4x4", 128), ("v5e:4x4", 256)]


def test_a_compiler_that_crashes_at_the_larger_size_leaves_what_is_known(compilations, monkeypatch):
    compile_for_topology = compilation.compile_for_topology

    def crash(config, *rest, **options):
        if config.batch_size > largest:
            raise compilation.NotCompiledError("the compiler ended with status -11")
        return compile_for_topology(config, *rest, **options)

    monkeypatch.setattr(compilation, "compile_for_topology", crash)
    largest = 128
    said = preflight(Config(batch_size=128), "v6e:4x4")
    assert "8 images on each, float32" in said and "work  " in said
    assert "largest    not known, since 16 images on each gave: the compiler ended with status -11" in said
    largest = 0
    with pytest.raises(UserError, match="ended with status -11"):
        preflight(Config(batch_size=128), "v6e:4x4")


def test_sharded_optimizers_are_compiled_for_the_slice_itself(compilations):
    preflight(Config(batch_size=256, shard_optimizer=True), "v5e:4x8")
    assert compilations[0] == ("v5e:4x8", 256)


def small_config():
    config = Config(batch_size=4)
    for name, value in TINY.items():
        setattr(config.model, name, value)
    return config


def test_local_devices_are_measured(capsys):
    said = preflight(small_config())
    assert re.search(r"^1 x cpu, a batch of 4: 4 images on each, float32$", said, re.M), said
    for line in (
        r"^memory     [\d.]+ MB of [\d.]+ GB: fits$",
        r"^work       [\d.]+ GFLOP and [\d.]+ MB of memory traffic a step on each; [\d.]+ GFLOP an image$",
        r"^exchange   nothing between devices a step$",
        r"^speed      [\d,.]+ images/s, measured, without input$",
        r"^back-test  .* off by a factor of [\d.]+$",
    ):
        assert re.search(line, said, re.M), (line, said)


def test_a_compilation_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(compilation, "_REPORT_EVERY_S", 0.2)
    with pytest.raises(UserError, match="4 images on each: not compiled within 1s; give more by --time_limit_s"):
        compilation.compile_locally(small_config(), 1, measure=False, time_limit_s=1.0)


def test_a_compiler_that_crashes_is_told():
    with pytest.raises(UserError, match="crashing: the compiler ended with status -6"):
        compilation._isolated(_crash, (), 60.0, "crashing")


def _crash():
    import os

    os.abort()


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
    assert "4 x TPU v5e (v5e:2x2), a batch of 32: 8 images on each" in said
    assert re.search(r"^exchange   \d all-reduce of", said, re.M)
    assert json.loads(next((tmp_path / "rvae_jax/preflight").glob("*.json")).read_text())["flops"] > 0


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_chips_program_is_the_same_in_a_larger_slice(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    for topology, chips in (("v5e:4x4", 16), ("v5e:16x16", 256)):
        config = dataclasses.replace(small_config(), batch_size=8 * chips)
        found.append(compilation.compile_for_topology(config, topology, chips, time_limit_s=600))
    small, large = found
    assert large.work == small.work and large.collectives == small.collectives
    assert large.memory == pytest.approx(small.memory, rel=0.05)


def test_collectives_are_read_from_a_program():
    text = """
%body.3_spmd (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  ROOT %r = f32[4]{0} all-reduce(f32[4]{0} %g), to_apply=%add
}

ENTRY %main (a: f32[16,8]) -> f32[3] {
  %all-reduce.1 = (f32[16,8]{1,0}, bf16[2]{0}, /*index=2*/f32[]) all-reduce(%a, %b, %c), channel_id=1
  %all-gather-start = (f32[4]{0}, f32[16]{0}) all-gather-start(f32[4]{0} %p), dimensions={0}
  ROOT %x = f32[3]{0} fusion(f32[3]{0} %all-reduce.1)
  %done = f32[16]{0} all-gather-done(%all-gather-start)
  %w = (s32[], f32[4]{0}) while((s32[], f32[4]{0}) %t), condition=%cond.2, body=%body.3_spmd
}
"""
    found = cost.collectives(text)
    assert [(each.kind, each.bytes, each.in_loop) for each in found] == [
        ("all-reduce", 16, True),
        ("all-reduce", 512 + 4 + 4, False),
        ("all-gather", 64, False),
    ]
