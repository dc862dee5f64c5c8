from rvae_jax.config import Config
from rvae_jax.hardware import accelerators
from rvae_jax.planning import lines, target
from rvae_jax.planning.compilation import CompiledStep

V5E = accelerators.ACCELERATORS["v5e"]


def compiled(images, memory, **changes):
    fields = {"devices": 16, "device_kind": V5E.kind, "images": images, "memory": memory} | changes
    return CompiledStep(**{"flops": 100e9 * images, "bytes_accessed": 1e9 * images} | fields)


def report(first, small, large, topology="v5e:4x4"):
    config = Config(batch_size=first.images * first.devices)
    chosen = target.of_topology(topology, shard_optimizer=False)
    return "\n".join(lines.report(config, chosen, first, small, large))


def test_the_largest_batch_is_on_the_line_through_two_compilations():
    small, large = compiled(8, 2_000_000_000), compiled(16, 4_000_000_000)
    said = report(small, small, large)
    assert "16 x TPU v5e (v5e:4x4), a batch of 128: 8 images per device, float32" in said
    assert "2.00 GB of 17.18 GB: fits" in said
    # 0.9 * 17.18 GB at 0.25 GB an image are 61.8 images, of which 56 are a multiple of 8.
    assert "56 images per device should fit, a batch of 896: extrapolated from 2.00 GB at 8" in said


def test_a_batch_that_does_not_fit_is_reported():
    small, large = compiled(8, 16_000_000_000), compiled(16, 31_000_000_000)
    assert "16.00 GB of 17.18 GB: does not fit" in report(small, small, large)
    refused = compiled(8, 0, fits=False, reason="RESOURCE_EXHAUSTED: 20G of 16G")
    said = report(refused, refused, large)
    assert "does not fit: RESOURCE_EXHAUSTED: 20G of 16G" in said
    assert "speed" not in said and "largest" not in said


def test_the_largest_batch_is_unknown_if_a_compilation_failed():
    small = compiled(8, 16_000_000_000)
    said = report(small, small, compiled(16, 0, fits=False, reason="RESOURCE_EXHAUSTED: 20G of 16G"))
    assert "largest    unknown, since 16 images per device gave: RESOURCE_EXHAUSTED: 20G of 16G" in said
    crashed = compiled(8, 0, fits=False, reason="the compiler ended with status -11")
    said = report(compiled(4, 4_000_000_000), crashed, compiled(16, 31_000_000_000))
    assert "largest    unknown, since 8 images per device gave: the compiler ended with status -11" in said


def test_a_batch_that_eight_does_not_divide_is_advised_against():
    said = report(compiled(4, 4_000_000_000), compiled(8, 2_000_000_000), compiled(16, 4_000_000_000))
    assert "4 images per device is no multiple of 8: 8 images take 2.00 GB, and 8.00 GB of memory traffic" in said


def test_a_speed_is_predicted_and_shown_with_the_measurements_that_test_the_prediction():
    small = compiled(8, 2_000_000_000, collectives={"all-reduce": (6, 45_000_000)})
    said = report(small, small, compiled(16, 4_000_000_000))
    assert "speed      4,491 to 13,104 images/s predicted, without input" in said
    assert "32.3 to 64.6 predicted, 30.8 measured, off by a factor of 1.5" in said
    assert "475 to 1,805 predicted, 740 measured, off by a factor of 1.3" in said
    assert "6 all-reduce of 45.0 MB per step" in said
    assert "efficiency at least 95.9% of 16 single chips" in said


def test_a_gpu_has_the_memory_that_jax_reserves():
    # 0.75 * 151.4 GB are 113.5 GB: between 50 and 100 images at 1 GB each and 20 GB more.
    small, large = (compiled(n, 20 * 10**9 + n * 10**9, devices=2, flops=None, bytes_accessed=None) for n in (50, 100))
    said = report(small, small, large, "h200:2")
    assert "2 x NVIDIA H200 SXM (h200:2), a batch of 100: 50 images per device" in said
    assert "70.00 GB of 151.40 GB, of which JAX takes 75% unless XLA_PYTHON_CLIENT_MEM_FRACTION is set: fits" in said
    assert "88 images per device should fit, a batch of 176" in said
    assert "work       unknown" in said and "speed" not in said
