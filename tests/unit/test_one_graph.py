"""All of a model is one graph for `torch.compile`, made once; a backend without code generation makes that cheap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from biva.config import Labels, RunConfig
from biva.data.datasets import Dataset
from biva.models.hierarchical_vae import Terms
from biva.training.state import initial_state, step
from tests.models import MODELS, tiny_architecture
from tests.unit.test_training import toy_dataset, toy_run

CPU, STEPS = torch.device("cpu"), 20
KINDS = [("bernoulli", "dense"), ("mixture_of_logistics", "convolutional")]
LABELLED = {"semi-supervised": ("biva", 2.0), "supervised": ("classifier", None)}

Compiled = Callable[..., Any]


@pytest.fixture
def graphs() -> Iterator[CompileCounterWithBackend]:
    """A backend that counts the graphs it gets, and runs them as they are."""
    torch._dynamo.reset()
    yield CompileCounterWithBackend("eager")
    torch._dynamo.reset()


def run_of(name: str, likelihood: str, latents: str, **training: Any) -> RunConfig:
    """A run with dropout, on tiny images; with labels for the models that learn from them."""
    architecture = tiny_architecture(likelihood=likelihood, latents=latents)
    model, weight = LABELLED.get(name, (name, None))
    labels = Labels(count=20, batch_size=5, weight=weight) if name in LABELLED else None
    run = toy_run("biva", **training)
    stages = [stage.model_copy(update={"blocks": 1}) for stage in architecture.stages]
    architecture = architecture.model_copy(update={"dropout": run.architecture.dropout, "stages": stages})
    return run.model_copy(update={"model": model, "labels": labels, "architecture": architecture})


def dataset_of(run: RunConfig) -> Dataset:
    """Images and labels of the shape that the run expects."""
    toy, shape = toy_dataset(), run.architecture.input_shape
    images = {split: pixels.expand(-1, *shape).contiguous() for split, pixels in toy.images.items()}
    colour: dict[str, Any] = {"levels": 256, "binarisation": "none"} if shape[0] == 3 else {}
    return replace(toy, shape=shape, images=images, **colour)


@pytest.mark.parametrize(("likelihood", "latents"), KINDS)
@pytest.mark.parametrize("name", [*MODELS, *LABELLED])
def test_training_is_one_graph_for_all_updates(
    graphs: CompileCounterWithBackend, name: str, likelihood: str, latents: str
) -> None:
    """Over several epochs, whose incomplete last batches are left out; `fullgraph` raises at a break."""
    run = run_of(name, likelihood, latents)
    state = initial_state(run, dataset_of(run), CPU)
    state.model.compile(backend=graphs, fullgraph=True)
    for _ in range(STEPS):
        assert step(state) == []
    assert graphs.frame_count == 1


def test_the_pieces_of_a_batch_share_a_graph(graphs: CompileCounterWithBackend) -> None:
    """Three pieces of seven images, the images of an epoch no multiple of 21."""
    run = run_of("biva", "bernoulli", "dense", batch_size=21, accumulate=3)
    state = initial_state(run, dataset_of(run), CPU)
    state.model.compile(backend=graphs, fullgraph=True)
    for _ in range(STEPS):
        assert step(state) == []
    assert graphs.frame_count == 1


def given_noise(_name: str, shape: torch.Size) -> Tensor:
    """Numbers that are drawn inside the graph."""
    return torch.randn(shape)


@pytest.mark.parametrize(("likelihood", "latents"), KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_evaluation_is_one_graph(graphs: CompileCounterWithBackend, name: str, likelihood: str, latents: str) -> None:
    """One per size of a chunk, and no other one however many batches of images there are."""
    run = run_of(name, likelihood, latents)
    model: Any = initial_state(run, dataset_of(run), CPU).ema

    def chunk(x: Tensor, k: int) -> Terms:
        terms: Terms = model.terms(x, model.inference.encode(x), k, given_noise)
        return terms

    compiled = torch.compile(chunk, backend=graphs, fullgraph=True, dynamic=False)
    x = torch.zeros(3, *run.architecture.input_shape)
    with torch.inference_mode():
        for _ in range(STEPS):
            assert compiled(x, 5).log_likelihood.shape == (3 * 5,)
    assert graphs.frame_count == 1


@pytest.mark.parametrize("name", LABELLED)
def test_evaluation_with_labels_is_one_graph(graphs: CompileCounterWithBackend, name: str) -> None:
    """Of images alone, as for the bound and the test error."""
    run = run_of(name, "bernoulli", "dense")
    model: Any = initial_state(run, dataset_of(run), CPU).ema
    x, no_labels = torch.zeros(3, *run.architecture.input_shape), torch.empty(0, dtype=torch.int64)
    model.compile(backend=graphs, fullgraph=True)
    with torch.inference_mode():
        for _ in range(STEPS):
            model(x, no_labels, given_noise) if name == "semi-supervised" else model(x)
    assert graphs.frame_count == 1
