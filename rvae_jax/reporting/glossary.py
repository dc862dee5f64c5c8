"""What the metrics of a report are, for a reader who has the page alone; docs/metrics.md has the definitions."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric.

    Attributes:
      range: its unit or range, and which way is better where one is.
      meaning: what it measures.
    """

    range: str
    meaning: str


_DETAIL = "How much of a pattern that repeats every few pixels the images have"
_MOMENTS = "Distance of a Gaussian with the codes' mean and variances from N(0, I), without correlation"
_OF_CODES = "prior deviations"
_NATS = "nats, 0 is N(0, I); compare with chance"
_GAIN = "nats per image, higher is better"

GLOSSARY = {
    "l1": Metric("0 to 2, lower is better", "Mean absolute error of reconstructions; pixels are in [-1, 1]."),
    "l1_training": Metric("0 to 2, lower is better", "The same on training images."),
    "psnr": Metric("dB, higher is better", "Peak signal-to-noise ratio of reconstructions."),
    "ssim": Metric("up to 1, higher is better", "Structural similarity of reconstructions and images."),
    "lpips": Metric("from 0, lower is better", "Perceptual distance of reconstructions and images, by AlexNet."),
    "lpips_vgg": Metric("from 0, lower is better", "Perceptual distance of reconstructions and images, by VGG16."),
    "sharpness": Metric("1 is as sharp as real images", "Gradient energy, over that of held-out images."),
    "grid_energy": Metric("near that of real images, lower is better", f"{_DETAIL}: an added pattern."),
    "seam_energy": Metric("near that of real images, lower is better", f"{_DETAIL}: edges between cells."),
    "rfid": Metric("from 0, lower is better", "FID of reconstructions to their own images."),
    "lpips_diversity": Metric("near that of real images", "Mean LPIPS of random pairs: low if samples are too alike."),
    "fid": Metric(
        "from that of real images, lower is better",
        "Fréchet distance of Inception's features to those of held-out images. Few images raise it, so compare it with"
        " that of real images and between equal numbers of images, not with published values.",
    ),
    "kid": Metric("near 0, lower is better", "Kernel distance of Inception's features to those of held-out images."),
    "kid_std": Metric("from 0", "Deviation of KID over subsets."),
    "precision": Metric("0 to 1, higher is better", "Share of samples among real images: their quality."),
    "recall": Metric("0 to 1, higher is better", "Share of real images among samples: their variety."),
    "density": Metric("about 1 for real images, higher is better", "How densely real images lie around samples."),
    "coverage": Metric("0 to 1, higher is better", "Share of real images that have a sample near them."),
    "images": Metric("count", "Images that this was measured on."),
    "moments": Metric(_NATS, "Distance in the means and variances of single dimensions."),
    "correlation": Metric(_NATS, "Distance in the correlation of dimensions."),
    "axes": Metric(_NATS, "Lower bound of what is not Gaussian, along lines: clusters, heavy tails."),
    "radius": Metric(_NATS, "Another one, by how far from their centre codes lie."),
    "posteriors": Metric(_NATS, "Distance of the mixture of the posteriors of all images; chance is most of it."),
    "gaussian": Metric(_GAIN, "A Gaussian fitted to the training images' codes."),
    "mixture": Metric(_GAIN, "A mixture of Gaussians fitted to the training images' codes."),
    "active_units": Metric("0 to dimensions", "Dimensions of the code that depend on the image."),
    "dimensions": Metric("count", "Dimensions of the code."),
    "rate": Metric("nats per image, from 0", "Mean KL of an image's posterior to N(0, I): what the code may carry."),
    "population_kl_means": Metric("nats, 0 is N(0, I)", f"{_MOMENTS}; of the posteriors' means."),
    "population_kl_mixture": Metric("nats, 0 is N(0, I)", f"{_MOMENTS}; of the mixture of posteriors."),
    "population_kl_gaussian": Metric("nats, 0 is N(0, I)", "The same with correlation. Few codes raise it."),
    "population_mean_rms": Metric(f"{_OF_CODES}, 0 in N(0, I)", "Root mean square of the codes' mean."),
    "population_std": Metric(f"{_OF_CODES}, 1 in N(0, I)", "Deviation of the posteriors' means, over dimensions."),
    "population_std_mixture": Metric(f"{_OF_CODES}, 1 in N(0, I)", "Deviation of the mixture of posteriors."),
    "sigma_mean": Metric(f"{_OF_CODES}, 0 to 1", "Mean deviation of one image's posterior."),
    "sigma_min": Metric(f"{_OF_CODES}, 0 to 1", "Least deviation of one image's posterior."),
    "excess_kurtosis_mean": Metric("0 for a Gaussian", "How heavy the tails of the codes are."),
    "correlation_rms": Metric("0 to 1, 0 in N(0, I)", "Correlation of different dimensions, root mean square."),
    "correlation_max": Metric("0 to 1, 0 in N(0, I)", "Greatest correlation of two dimensions."),
    "correlation_noise": Metric("0 to 1", "What correlation_rms would be by chance."),
    "mutual_information": Metric(
        "nats, 0 to mutual_information_limit", "What a code says about which image it belongs to."
    ),
    "marginal_kl": Metric("nats, 0 is N(0, I)", "Distance of the mixture of posteriors from N(0, I)."),
    "mutual_information_limit": Metric("nats", "Logarithm of the number of images."),
    "copies": Metric(
        "0 to 1, lower is better",
        "Share of samples that are three times nearer to one training image than to any other.",
    ),
    "copies_among_held_out": Metric("0 to 1", "The same share of held-out images: what copies should not exceed."),
    "training_images": Metric("count", "Training images that were searched."),
    "training_images_in_all": Metric("count", "Training images that there are."),
    "iwae": Metric("nats per image, higher is better", "Lower bound on the log likelihood, with the trained scale."),
    "bits_per_dimension": Metric("below 8, lower is better", "The same in bits for each value of 256 levels."),
    "scale": Metric("pixels in [-1, 1]", "Scale of the Laplace density that the loss implies."),
    "iwae_fitted": Metric("nats per image, higher is better", "The bound with the scale that fits best."),
    "bits_per_dimension_fitted": Metric("below 8, lower is better", "The same in bits."),
    "scale_fitted": Metric("pixels in [-1, 1]", "The scale that fits training images best."),
    "samples": Metric("count", "Samples for each image."),
}

# Metrics that are drawn over the steps.
LOGGED = {
    "loss/reconstruction": "error of reconstructions of training images",
    "selection/l1": "the same, images that choose the checkpoint",
    "validation/l1": "the same, held-out images",
    "loss/population_kl": "distance of the batch's codes from N(0, I)",
    "loss/variance_regularizer": "distance of the posteriors' variances from their target",
    "loss/standard_kl": "distance of each posterior from N(0, I)",
    "validation/kl_per_image": "the same, held-out images",
    "loss/adversarial": "loss of the VAE",
    "loss/discriminator": "loss of the discriminator",
    "discriminator/accuracy_real": "real images that it takes for real",
    "discriminator/accuracy_fake": "reconstructions that it takes for reconstructions",
    "latent/population_std": "deviation of the codes; 1 in N(0, I)",
    "latent/sigma_mean": "deviation of one posterior",
    "latent/population_mean_rms": "mean of the codes; 0 in N(0, I)",
    "latent/active_units": "dimensions that depend on the image, in a batch",
    "validation/active_units": "the same, held-out images",
    "gradient_norm/vae": "of the VAE, before clipping",
    "gradient_norm/discriminator": "of the discriminator, before clipping",
}
