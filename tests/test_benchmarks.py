"""The computations of the benchmarks, not their timings."""

import types

import numpy as np
import pytest

from benchmarks import contenders, kernels, operations, sizes
from benchmarks.peers.ours import make_arrays
from rvae_jax.config import Config, ModelConfig
from rvae_jax.errors import UserError


def test_operations_are_those_of_the_author():
    model = ModelConfig()
    parts = (operations.of_encoder(model), operations.of_decoder(model), operations.of_discriminator(model))
    np.testing.assert_allclose(np.array(parts) / 1e9, [162.2, 17.1, 1.85], rtol=3e-3)
    np.testing.assert_allclose(operations.of_step(Config()) / 1e9, 551, rtol=1e-3)


def test_without_a_discriminator_a_step_is_three_passes_of_the_vae():
    config = Config()
    config.loss.adversarial = "none"
    vae = operations.of_encoder(config.model) + operations.of_decoder(config.model)
    assert operations.of_step(config) == 3 * vae


def test_disagreement_is_a_relative_error_between_equal_names():
    ours = {"a": 2.0, "b": -4.0}, {"w": np.array([3.0, 0.0]), "v": np.array([4.0])}
    theirs = {"a": 2.0, "b": -4.4}, {"w": np.array([3.0, 0.3]), "v": np.array([4.4])}
    terms, gradient = contenders.disagreement(ours, theirs)
    np.testing.assert_allclose([terms, gradient], [0.1, 0.1])
    with pytest.raises(UserError, match="different names"):
        contenders.disagreement(ours, (theirs[0], {"w": theirs[1]["w"]}))


def test_kernels_are_ranked_and_have_an_origin():
    events = [
        ("convolution_kernel_of_the_library", 2e6, "custom-call.3"),
        ("loop_fusion_7", 5e6, "command_buffer_12"),
        ("loop_fusion_7", 5e6, "command_buffer_13"),
        ("not XLA's", 9e6, None),
    ]
    line = types.SimpleNamespace(
        name="Stream #1",
        events=[
            types.SimpleNamespace(name=name, duration_ns=length, stats=[("hlo_op", op)] if op else [])
            for name, length, op in events
        ],
    )
    planes = [
        types.SimpleNamespace(name="/host:CPU", lines=[]),
        types.SimpleNamespace(name="/device:GPU:0", lines=[line]),
    ]
    text = (
        '  %custom-call.3 = bf16[2,4]{1,0} custom-call(%x), metadata={op_name="step/conv"}\n'
        '  ROOT %loop_fusion.7 = f32[8]{0} fusion(%y), metadata={op_name="step/relu"}\n'
    )
    found = kernels.ranked(types.SimpleNamespace(planes=planes), 2, text)
    assert [(each.name, each.ms, each.shape, each.origin) for each in found] == [
        ("loop_fusion_7", 5.0, "f32[8]", "step/relu"),
        ("custom-call.3", 1.0, "bf16[2,4]", "step/conv"),
    ]
    np.testing.assert_allclose([each.share for each in found], [10 / 12, 2 / 12])


def test_pytorch_computes_what_we_do():
    pytest.importorskip("torch")
    config = sizes.get_config("32")
    config.batch_size = 4
    model = config.model  # with every kind of layer
    model.image_shape, model.latent_dim, model.encoder_identity_blocks = (8, 8, 3), 16, 1
    model.encoder_filters, model.decoder_filters = (4, 6), (6, 3)
    model.discriminator_filters, model.discriminator_strides = (4, 1), (2, 1)
    arrays = make_arrays(config)
    checks = [contenders.peer_class(name)(config, arrays).first_step() for name in ("rvae_jax", "pytorch_eager")]
    terms, gradient = contenders.disagreement(*checks)
    assert terms <= 1e-5
    assert gradient <= 1e-4
