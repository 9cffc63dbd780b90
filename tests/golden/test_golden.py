"""Ours against the authors' codes, on given weights, images and noise (README.md beside this file)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from biva.bounds import elbo, free_bits_loss
from biva.models.architectures import Architecture
from biva.models.hierarchical_vae import HierarchicalVAE, Terms


def computed(name: str) -> tuple[Terms, dict[str, Tensor]]:
    """Our terms, in float64, and what the authors' code gave."""
    with safe_open(Path(__file__).with_name(f"{name}.safetensors"), "pt") as file:
        tensors = {key: file.get_tensor(key).double() for key in file.keys()}  # noqa: SIM118, a file is no mapping
        metadata = file.metadata()

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    architecture = Architecture.model_validate_json(metadata["architecture"])
    model = HierarchicalVAE(architecture, "biva").double().eval()
    model.load_state_dict(under("weights/"))
    assert model.group_names == json.loads(metadata["groups"])
    x, noise = tensors["x"], under("noise/")
    x = 2 * x - 1 if architecture.likelihood == "mixture_of_logistics" else x
    with torch.no_grad():
        terms = model(x, lambda name, _shape: noise[name[2:-1]])
    return terms, under("expected/")


@pytest.mark.parametrize(
    ("name", "of_kl", "of_sums"),
    [
        ("tensorflow_small", 2e-6, 1e-4),
        ("tensorflow_colour", 2e-4, 2e-3),  # their mixture approximates bins of a probability below 1e-5
    ],
)
def test_terms_are_those_of_the_tensorflow_code(name: str, of_kl: float, of_sums: float) -> None:
    """Their numbers are float32: the batch means, of 180 and 4,800 nats, have a resolution of 2e-5 and 5e-4."""
    terms, expected = computed(name)
    torch.testing.assert_close(terms.kl, expected["kl"], atol=of_kl, rtol=0)
    sums = {
        "nll": -terms.log_likelihood.mean(),
        "negative_elbo": -elbo(terms.log_likelihood, terms.kl).mean(),
        "free_bits_2_loss": free_bits_loss(terms.log_likelihood, terms.kl, 2.0),
    }
    for key, value in sums.items():
        assert value.item() == pytest.approx(expected[key].item(), abs=of_sums, rel=0), key
    if "mean_image" in expected:
        torch.testing.assert_close(terms.walk.output.sigmoid(), expected["mean_image"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["pytorch_small", "pytorch_colour"])
def test_terms_are_those_of_the_pytorch_code(name: str) -> None:
    terms, expected = computed(name)
    torch.testing.assert_close(terms.kl, expected["kl"], atol=1e-10, rtol=0)
    torch.testing.assert_close(terms.log_likelihood, expected["log_likelihood"], atol=1e-10, rtol=0)
    output = terms.walk.output[: len(expected["output"])]
    torch.testing.assert_close(output, expected["output"], atol=1e-10, rtol=0)
