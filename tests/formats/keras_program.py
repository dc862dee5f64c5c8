"""The author's networks in Keras, from the facts in docs/paper_to_code.md; test_keras_loading.py runs it.

    python keras_program.py CONFIG.json WEIGHTS.h5 INPUTS.npz OUTPUTS.npz SAVED.weights.h5

loads the weights, writes the outputs of the networks, and saves the weights again.
"""

import itertools
import json
import math
import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers


def norm():
    return layers.BatchNormalization(momentum=0.99, epsilon=1e-3)


def conv(filters, size=1, strides=1):
    return layers.Conv2D(filters, size, strides=strides, padding="same")


def tri(x, filters, strides, relu):
    x = conv(filters, 3)(relu(norm()(x)))
    x = conv(filters, 3)(relu(norm()(x)))
    return conv(filters, 1, strides)(relu(norm()(x)))


def identity(x, filters):
    return layers.Add()([tri(x, filters, 1, layers.Activation("relu")), x])


def down(x, filters):
    branch = tri(x, filters, 2, layers.Activation("relu"))
    return layers.Add()([branch, conv(filters, 1, 2)(layers.Activation("relu")(norm()(x)))])


def up(x, filters):
    relu = layers.Activation("relu")

    def transposed():
        return layers.Conv2DTranspose(filters, 3, strides=2, padding="same")

    branch = transposed()(relu(norm()(conv(filters)(relu(norm()(x))))))
    return layers.Add()([branch, transposed()(relu(norm()(x)))])


def encoder(shape, filters, latent_dim, blocks, input_norm):
    first = x = layers.Input(shape)
    x = layers.LayerNormalization(axis=(1, 2), epsilon=1e-3)(x) if input_norm else x
    x = conv(filters[0], 3)(x)
    for before, after in itertools.pairwise(filters):
        for _ in range(blocks):
            x = identity(x, before)
        x = down(x, after)
    return keras.Model(first, conv(latent_dim // 8)(x))


def decoder(shape, filters, latent_dim, blocks):
    reduction = 2 ** (len(filters) - 1)
    small = (shape[0] // reduction, shape[1] // reduction, latent_dim // 8)
    first = layers.Input((latent_dim,))
    x = layers.Reshape(small)(layers.Dense(math.prod(small))(first))
    x = conv(filters[0], 3)(x)
    for before, after in itertools.pairwise(filters):
        for _ in range(blocks):
            x = identity(x, before)
        x = up(x, after)
    return keras.Model(first, conv(shape[2])(x))


class Sampler(layers.Layer):
    def __init__(self, latent_dim):
        super().__init__()
        self.flatten = layers.Flatten()
        self.dense1, self.dense2 = layers.Dense(latent_dim), layers.Dense(latent_dim)

    def call(self, features):
        flat = self.flatten(features)
        return self.dense1(flat), self.dense2(flat)


class VAE(keras.Model):
    def __init__(self, model):
        super().__init__()
        shape, latent_dim = model["image_shape"], model["latent_dim"]
        blocks = model["encoder_identity_blocks"], model["decoder_identity_blocks"]
        self.encoder_model = encoder(shape, model["encoder_filters"], latent_dim, blocks[0], model["input_norm"])
        self.decoder_model = decoder(shape, model["decoder_filters"], latent_dim, blocks[1])
        self.sampler = Sampler(latent_dim)

    def call(self, x):
        mean, log_var = self.sampler(self.encoder_model(x))
        return mean, log_var, self.decoder_model(mean)


class Discriminator(keras.Model):
    def __init__(self, model):
        super().__init__()
        first = x = layers.Input(model["image_shape"])
        last = len(model["discriminator_filters"]) - 1
        for i, (filters, strides) in enumerate(
            zip(model["discriminator_filters"], model["discriminator_strides"], strict=True)
        ):
            x = norm()(conv(filters, 3, strides)(x))
            x = layers.LeakyReLU(negative_slope=0.3)(x) if i < last else x
            x = layers.Dropout(0.25)(x)
        self.network = keras.Model(first, x, name="functional")

    def call(self, x):
        return self.network(x)


class Program(keras.Model):
    def __init__(self, model, adversarial):
        super().__init__()
        self.vae = VAE(model)
        self.discriminator_model = Discriminator(model) if adversarial else None
        if adversarial:
            self.generator_optimizer, self.discriminator_optimizer = (keras.optimizers.Adam(1e-4) for _ in range(2))

    def call(self, x):
        outputs = self.vae(x)
        return (*outputs, self.discriminator_model(x)) if self.discriminator_model else outputs


def main(config_file, weights_file, inputs_file, outputs_file, saved_file):
    config = json.loads(pathlib.Path(config_file).read_text())
    program = Program(config["model"], config["loss"]["adversarial"] != "none")
    program.compile()
    inputs = np.load(inputs_file)
    program(inputs["x"])
    program.load_weights(weights_file)
    mean, log_var, _, *logits = program(inputs["x"], training=False)
    outputs = {"mean": mean, "log_var": log_var, "images": program.vae.decoder_model(inputs["z"], training=False)}
    if logits:
        outputs["logits"] = logits[0]
    np.savez(outputs_file, **{name: np.asarray(value) for name, value in outputs.items()})
    program.save_weights(saved_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
