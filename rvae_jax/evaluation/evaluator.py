"""All that is measured of a trained model; ``rvae_jax.evaluate`` is the command."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from rvae_jax.data.pixels import evenly_spaced
from rvae_jax.errors import UserError, needs
from rvae_jax.evaluation.metrics import distances, inception, latent, likelihood, memorisation
from rvae_jax.inference import samplers
from rvae_jax.inference.batching import Batched
from rvae_jax.system.files import write_atomically

with needs("evaluate", command=False):
    from rvae_jax.data import reading
    from rvae_jax.data.pixels import to_float
    from rvae_jax.evaluation.metrics import similarity
    from rvae_jax.inference.trained_vae import TrainedVAE

FILE = "evaluation.json"

LEAST_FOR_DISTANCES = 1_000
_DECOMPOSED = 2_000
_BOUNDED = 256
_FORMAT = 1  # of the file

Evaluation = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured, and on how much.

    Attributes:
      images: most held-out images that are used; as many samples are drawn from each sampler.
      training_images: most training images that codes are taken of and copies are looked for among.
      split: the held-out images: a split of the run's, or one in TFDS's syntax.
      inception: file of Inception's weights, or None for the installed ones.
      cache: folder for features of real images, or None for none.
      likelihood_samples: samples of each image for the bound on the likelihood.
      least_for_distances: fewest images that FID and its like are computed on.
      seed: of all draws.
    """

    images: int = 10_000
    training_images: int = 10_000
    split: str = "validation"
    inception: Path | None = None
    cache: Path | None = None
    likelihood_samples: int = 64
    least_for_distances: int = LEAST_FOR_DISTANCES
    seed: int = 0


def evaluate(model: TrainedVAE, settings: Settings = Settings(), progress: bool = True) -> Evaluation:
    """Measures everything that can be measured of a model.

    Args:
      model: the model.
      settings: what, and on how much.
      progress: whether progress bars are shown.

    Returns:
      What ``evaluation.json`` holds; docs/metrics.md names every figure. What could not be measured stands under
      ``skipped``, with the reason.

    Raises:
      UserError: the run's data set is not there.
    """
    return _Judge(model, settings, progress).judge()


class _Judge:
    """One evaluation."""

    def __init__(self, model: TrainedVAE, settings: Settings, progress: bool) -> None:
        self.model, self.settings, self.progress = model, settings, progress
        self.skipped: dict[str, str] = {}
        self.held_out = reading.read_split(model.config, settings.split, settings.images)
        self.training = reading.read_split(model.config, "train", settings.training_images)
        self.training_total = reading.count(model.config, "train")
        # As many training images as there are held-out ones: what real images are like beside these.
        chosen = np.random.default_rng(settings.seed).permutation(len(self.training))[: len(self.held_out)]
        self.others = np.sort(chosen)
        self.checksum: str | None = None

    def judge(self) -> Evaluation:
        config = self.model.config
        held_out = self._encode(self.held_out, "encode held-out images")
        training = self._encode(self.training, "encode training images")
        reconstructions = self._decode(held_out[0], "reconstruct held-out images")
        draws = {
            "prior": samplers.prior(config.model.latent_dim),
            "gaussian": samplers.gaussian(*samplers.moments(*training)),
            "mixture": samplers.mixture(*training, seed=self.settings.seed),
        }
        samples = {
            name: self._decode(draw(len(self.held_out), self.settings.seed), f"samples: {name}")
            for name, draw in draws.items()
        }
        reconstruction = self._reconstruction(reconstructions, training[0])
        result: Evaluation = {
            "model": {
                "workdir": str(self.model.workdir),
                "step": self.model.step,
                "steps": config.steps,
                "data": config.data.name,
            },
            "reconstruction": reconstruction,
            "generation": self._generation(samples),
            "latent": self._latent(held_out, training),
            "memorisation": self._memorisation(samples["prior"]),
            "likelihood": self._likelihood(held_out, fitted_scale=float(reconstruction["l1_training"])),
        }
        self._distances(result, reconstructions, samples)
        result["protocol"] = self._protocol()
        result["settings"] = asked(self.settings)
        result["skipped"] = self.skipped
        return _rounded(result)

    @functools.cached_property
    def _encoder(self) -> Batched:
        apply = functools.partial(self.model.vae.apply, method="encode")
        return Batched(lambda variables, images: apply(variables, to_float(images)), self.model.variables)

    @functools.cached_property
    def _decoder(self) -> Batched:
        def decode(variables: Any, z: jax.Array) -> jax.Array:
            x = jnp.clip(self.model.vae.apply(variables, z, method="decode"), -1.0, 1.0)
            return jnp.round((x + 1.0) * 127.5).astype(jnp.uint8)

        return Batched(decode, self.model.variables)

    def _encode(self, images: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
        return self._encoder(images, label=self._label(label))

    def _decode(self, z: np.ndarray, label: str) -> np.ndarray:
        return self._decoder(z, label=self._label(label))

    def _label(self, text: str) -> str | None:
        return f"{text:28}" if self.progress else None

    @functools.cached_property
    def _similarity(self) -> Batched:
        def measure(_: None, x: jax.Array, x_hat: jax.Array) -> dict[str, jax.Array]:
            found = {
                "l1": similarity.l1(x, x_hat),
                "psnr": similarity.psnr(x, x_hat),
                "sharpness": similarity.sharpness(x),
                "sharpness_hat": similarity.sharpness(x_hat),
            }
            if has_ssim:
                found["ssim"] = similarity.ssim(x, x_hat)
            return found

        size = self.held_out.shape[1:3]
        has_ssim = min(size) >= similarity.SSIM_WINDOW
        if not has_ssim:
            self.skipped["ssim"] = f"images of {size[0]}x{size[1]}; its window is 11x11"
        return Batched(measure)

    @functools.cached_property
    def _lpips(self) -> Batched | None:
        size = self.held_out.shape[1:3]
        if min(size) < similarity.LEAST_LPIPS_SIZE:
            self.skipped["lpips"] = f"images of {size[0]}x{size[1]}; LPIPS needs at least 32x32"
            return None
        return Batched(similarity.lpips, similarity.load_lpips())

    def _reconstruction(self, reconstructions: np.ndarray, training_means: np.ndarray) -> dict[str, float]:
        values = self._similarity(self.held_out, reconstructions, label=self._label("PSNR, SSIM"))
        of_training = self._decode(training_means[self.others], "reconstruct training images")
        result = {
            "l1": values["l1"].mean(),
            "l1_training": self._similarity(self.training[self.others], of_training)["l1"].mean(),
            "sharpness": values["sharpness_hat"].mean() / values["sharpness"].mean(),
        }
        if np.isfinite(values["psnr"]).all():
            result["psnr"] = values["psnr"].mean()
        else:
            self.skipped["psnr"] = f"{np.isinf(values['psnr']).sum()} reconstructions are equal to their image"
        if "ssim" in values:
            result["ssim"] = values["ssim"].mean()
        if self._lpips is not None:
            result["lpips"] = self._lpips(self.held_out, reconstructions, label=self._label("LPIPS")).mean()
        return result

    def _generation(self, samples: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        """Sharpness and diversity of real images and of each sampler's."""
        held_out = self._similarity(self.held_out, self.held_out)["sharpness"].mean()
        result = {}
        for name, images in {"real": self.training[self.others], **samples}.items():
            result[name] = {"sharpness": self._similarity(images, images)["sharpness"].mean() / held_out}
            if self._lpips is not None and len(images) > 1:
                half = len(images) // 2
                order = np.random.default_rng(self.settings.seed).permutation(len(images))
                pairs = images[order[:half]], images[order[half : 2 * half]]
                result[name]["lpips_diversity"] = self._lpips(*pairs, label=self._label(f"LPIPS: {name}")).mean()
        return result

    def _latent(self, held_out: tuple[np.ndarray, ...], training: tuple[np.ndarray, ...]) -> dict[str, Any]:
        few = evenly_spaced(_DECOMPOSED, len(held_out[0]))
        decomposition = latent.decompose(*(array[few] for array in held_out), seed=self.settings.seed)
        return {
            "held_out": {
                "images": len(held_out[0]),
                **latent.summary(*held_out),
                **decomposition._asdict(),
                "mutual_information_limit": math.log(len(few)),
            },
            "training": {"images": len(training[0]), **latent.summary(*training)},
            "dimensions": {name: values.tolist() for name, values in latent.dimensions(*training).items()},
        }

    def _memorisation(self, samples: np.ndarray) -> dict[str, float]:
        """Nearest training images of samples, and of held-out images to compare with."""
        if len(self.training) < 3:
            self.skipped["memorisation"] = f"{len(self.training)} training images; expected at least 3"
            return {}
        flip = self.model.config.data.flip
        return {
            "copies": memorisation.copies(samples, self.training, flip),
            "copies_among_held_out": memorisation.copies(self.held_out, self.training, flip),
            "training_images": len(self.training),
            "training_images_in_all": self.training_total,
        }

    def _likelihood(self, held_out: tuple[np.ndarray, np.ndarray], fitted_scale: float) -> dict[str, float]:
        loss = self.model.config.loss
        if loss.adversarial != "none" and loss.adversarial_weight:
            self.skipped["likelihood"] = "the model was trained against a discriminator: its loss bounds no likelihood"
            return {}
        few = evenly_spaced(_BOUNDED, len(self.held_out))
        size = math.prod(self.held_out.shape[1:])
        scales = likelihood.trained_scale(size, loss.reconstruction_weight), fitted_scale
        apply, samples = self.model.vae.apply, self.settings.likelihood_samples

        def bound(variables: Any, x: jax.Array, mean: jax.Array, log_var: jax.Array, row: jax.Array) -> jax.Array:
            def of_scale(x: jax.Array, mean: jax.Array, log_var: jax.Array, row: jax.Array, scale: float) -> jax.Array:
                def log_likelihood(x: jax.Array, z: jax.Array) -> jax.Array:
                    return likelihood.laplace_log_likelihood(x, apply(variables, z, method="decode"), scale)

                key = jax.random.fold_in(jax.random.key(self.settings.seed), row)
                rows = x[None], mean[None], log_var[None]
                return likelihood.importance_weighted_bound(*rows, log_likelihood, key, samples)[0]

            def one(*row: jax.Array) -> jax.Array:
                return jnp.stack([of_scale(*row, scale) for scale in scales])

            return jax.vmap(one)(to_float(x), mean, log_var, row)

        rows = self.held_out[few], held_out[0][few], held_out[1][few], few
        values = Batched(bound, self.model.variables, batch_size=8)(*rows, label=self._label("likelihood"))
        trained, fitted = (float(bound) for bound in values.astype(np.float64).mean(axis=0))
        return {
            "iwae": trained,
            "bits_per_dimension": likelihood.bits_per_dimension(trained, size),
            "scale": scales[0],
            "iwae_fitted": fitted,
            "bits_per_dimension_fitted": likelihood.bits_per_dimension(fitted, size),
            "scale_fitted": fitted_scale,
            "samples": samples,
            "images": len(few),
        }

    def _distances(self, result: Evaluation, reconstructions: np.ndarray, samples: dict[str, np.ndarray]) -> None:
        """Puts FID and its like where they belong."""
        what, least, count = "FID, KID, precision and the like", self.settings.least_for_distances, len(self.held_out)
        if count < least:
            self.skipped["fid"] = (
                f"{what}: {count} held-out images to compare with, expected at least {least}; below, they say more"
                " about the number than about the model"
            )
            return
        if len(self.others) < count:
            self.skipped["fid"] = (
                f"{what}: {len(self.others)} training images for the floor, expected as many as the {count} held-out"
                " ones; lower --images, or raise --training_images"
            )
            return
        try:
            network = inception.load(self.settings.inception)
        except UserError as error:
            self.skipped["fid"] = f"{what}: {error}"
            return
        self.checksum = network.checksum
        extract = Batched(inception.features, network.layers)
        real = self._cached(extract, self.held_out, "features: held-out")
        reference = distances.moments(real)

        def compare(features: np.ndarray) -> dict[str, float]:
            kid = distances.kernel_distance(real, features, seed=self.settings.seed)
            return {
                "fid": distances.frechet_distance(*reference, *distances.moments(features)),
                "kid": kid.mean,
                "kid_std": kid.std,
                **distances.support(real, features)._asdict(),
            }

        others = self._cached(extract, self.training[self.others], "features: training")
        result["generation"]["real"] |= compare(others)
        for name, images in samples.items():
            result["generation"][name] |= compare(extract(images, label=self._label(f"features: {name}")))
        features = extract(reconstructions, label=self._label("features: reconstructions"))
        result["reconstruction"]["rfid"] = distances.frechet_distance(*reference, *distances.moments(features))

    def _cached(self, extract: Batched, images: np.ndarray, label: str) -> np.ndarray:
        """Features of real images, which are the same for every model of a data set."""
        content = hashlib.sha256(images.tobytes() + repr((images.shape, self.checksum)).encode())
        path = self.settings.cache and self.settings.cache / f"{content.hexdigest()[:24]}.npy"
        if path:
            with contextlib.suppress(OSError, ValueError, EOFError):  # it is not there, or damaged
                features = np.load(path)
                if features.shape == (len(images), inception.FEATURES):
                    return features
        features = extract(images, label=self._label(label))
        if path:
            _save(path, features)
        return features

    def _protocol(self) -> dict[str, Any]:
        height, width, channels = self.held_out.shape[1:]
        protocol = {
            "held_out_split": reading.split_name(self.model.config, self.settings.split),
            "held_out_images": len(self.held_out),
            "training_split": self.model.config.data.train_split,
            "training_images": len(self.training),
            "samples_of_each_sampler": len(self.held_out),
            "image_shape": [height, width, channels],
            "images": "8 bits, reconstructions from the posterior's mean; samples decoded without noise",
            "lpips": similarity.LPIPS_PROTOCOL,
            "ssim": "Gaussian window of 11x11, deviation 1.5, valid pixels",
            "seed": self.settings.seed,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
        }
        if self.checksum:
            protocol |= {
                "inception_checksum": self.checksum,
                "inception_resizer": inception.RESIZER,
                "distances": "to the held-out images; real: as many training images, the floor. Few images bias FID"
                " upwards: compare with equal numbers alone, and not with published ones, of 50,000",
            }
        if channels == 1:
            protocol["channels"] = (
                "the images have one channel, which counts as three equal ones in LPIPS and Inception"
            )
        return protocol


def table(evaluation: Evaluation) -> str:
    """The evaluation as text, for a terminal: each figure with its protocol below."""
    protocol, latents = evaluation["protocol"], evaluation["latent"]
    lines = [f"Reconstruction of {protocol['held_out_images']:,} held-out images"]
    lines += _columns([evaluation["reconstruction"]], [""])
    lines.append(f"{protocol['samples_of_each_sampler']:,} samples; real: as many training images, the floor")
    generation = evaluation["generation"]
    lines += _columns(list(generation.values()), list(generation))
    lines.append("Latent space; rates in nats per image")
    lines += _columns([latents["held_out"], latents["training"]], ["held-out", "training"])
    for name in ("memorisation", "likelihood"):
        if evaluation[name]:
            lines.append(name.capitalize())
            lines += _columns([evaluation[name]], [""])
    lines.append("Protocol")
    lines += [f"  {name:26} {value}" for name, value in protocol.items()]
    lines += [f"Not measured: {name}: {reason}" for name, reason in evaluation["skipped"].items()]
    return "\n".join(lines)


def _columns(columns: list[dict[str, float]], headings: list[str]) -> list[str]:
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = ["  " + " " * 26 + "".join(f"{heading:>12}" for heading in headings)] if any(headings) else []
    for name in names:
        values = (f"{column[name]:12.5g}" if name in column else " " * 12 for column in columns)
        lines.append(f"  {name:26}" + "".join(values))
    return lines


def evaluated(model: TrainedVAE, settings: Settings) -> Evaluation:
    """What ``evaluation.json`` in the work directory says, if it is of this step and these settings; else evaluates.

    Raises:
      UserError: see ``evaluate``.
    """
    found = read(model.workdir, model.step)
    if found is not None and found["settings"] == asked(settings):
        return found
    print(f"{model.workdir}: evaluating step {model.step}", flush=True)
    return write(model, evaluate(model, settings))


def write(model: TrainedVAE, evaluation: Evaluation) -> Evaluation:
    """Writes ``evaluation.json`` into the model's work directory."""
    write_atomically(model.workdir / FILE, to_bytes(evaluation))
    return evaluation


def to_bytes(evaluation: Evaluation) -> bytes:
    """The content of ``evaluation.json``."""
    return (json.dumps(evaluation, indent=1) + "\n").encode()


def read(folder: epath.Path, step: int) -> Evaluation | None:
    """What ``evaluation.json`` in a folder says, if it is of this step, and of this version's form."""
    try:
        found = json.loads((folder / FILE).read_text())
        return found if (found["model"]["step"], found["settings"]["format"]) == (step, _FORMAT) else None
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        return None


def asked(settings: Settings) -> dict[str, Any]:
    """What figures depend on, besides the model and its data."""
    values = dataclasses.asdict(settings) | {"format": _FORMAT, "inception": inception.checksum(settings.inception)}
    del values["cache"]
    return values


def _rounded(value: Any) -> Any:
    """Plain numbers of six significant digits, so that the file can be read."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.6g}")
    return value


def _save(path: Path, array: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, array)
    write_atomically(epath.Path(path), content.getvalue())
