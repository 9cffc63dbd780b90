"""FLOPs against closed forms, the record of a benchmark, and the check of a device. No test asserts a time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from biva.bench import Bench, bench, benchmarked, check, initialised, largest_convolution, report
from biva.bounds import elbo
from biva.config import RunConfig
from biva.data.datasets import Dataset
from biva.errors import UserError
from biva.models.architectures import Architecture, Dropout, ModelName, Stage
from biva.plan import count
from biva.training.state import State, initial_state, step
from tests.fake_runs import labelled_config
from tests.models import MODELS, tiny_architecture

CPU = torch.device("cpu")

ONE_STAGE = Architecture(
    description="one block each way over 4x4 images, F = 4, N = 2",
    input_shape=(1, 4, 4),
    likelihood="bernoulli",
    latents="dense",
    filters=4,
    dropout=Dropout(inference=0.0, generative=0.0),
    stages=(Stage(blocks=1, kernel=3, stride=1, latent=2),),
)


def tiny_run(model: ModelName = "biva") -> RunConfig:
    return benchmarked("tiny", tiny_architecture(latent=2), model, "cpu", threads=1)


def convolution(pixels: int, channels: int, out: int, kernel: int) -> int:
    """2 FLOPs per output value, input channel and tap."""
    return 2 * pixels * out * channels * kernel**2


FIRST = convolution(16, 1, 4, 3)
ENCODING = FIRST + convolution(16, 4, 8, 3) + 2 * 64 * 4  # block, head of 2N outputs
SAMPLING = 2 * 2 * 64 + convolution(16, 4, 4, 3) + convolution(16, 4, 8, 3) + convolution(16, 4, 1, 1)


def test_flops_of_one_stage_by_hand() -> None:
    costs = count(ONE_STAGE, "vae")
    assert (costs.encoding, costs.sampling) == (ENCODING, SAMPLING) == (10_880, 14_208)
    # The backward pass computes gradients of weights and of inputs, but not of the images.
    assert costs.training == 3 * (ENCODING + SAMPLING) - FIRST
    assert costs.evaluation(1) == ENCODING + SAMPLING
    assert costs.evaluation(10) == ENCODING / 10 + SAMPLING


def test_only_what_needs_a_sample_is_counted_per_sample() -> None:
    """LVAE's inference but for its merges depends on x alone; BIVA's only in stage 1 (paper.md section 1)."""
    lvae, biva = (count(tiny_architecture(), model) for model in ("lvae", "biva"))
    assert lvae.encoding > biva.encoding
    assert lvae.sampling < biva.sampling


def flops_of_a_step(state: State) -> int:
    with FlopCounterMode(display=False) as counter:
        step(state)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("model", MODELS)
def test_flops_of_training_are_those_of_a_real_update(model: ModelName) -> None:
    run = tiny_run(model)
    real = flops_of_a_step(initialised(run, CPU))
    assert count(run.architecture, model).training == real / run.training.batch_size


@pytest.mark.parametrize("model", ["biva", "classifier"])
def test_flops_of_learning_from_labels_are_those_of_a_real_update(model: str) -> None:
    run = labelled_config(model)
    images, labels = {"train": torch.zeros(100, 1, 8, 8, dtype=torch.uint8)}, {"train": torch.arange(100) % 10}
    dataset = Dataset("digits", "", (1, 8, 8), 2, "static", images, labels)
    real = flops_of_a_step(initial_state(run, dataset, CPU))
    costs = count(run.architecture, model, run.labels, run.training.batch_size)
    assert costs.training == real / run.training.batch_size


def test_the_largest_convolution_is_found() -> None:
    largest = largest_convolution(ONE_STAGE, "vae")
    assert (largest.input, largest.weight) == ((4, 4, 4), (8, 4, 3, 3))
    assert largest.flops == convolution(16, 4, 8, 3)
    assert str(largest) == "3x3, 4 -> 8 channels, stride 1, on 4x4"


@pytest.mark.parametrize(("backward", "passes"), [(False, 1), (True, 3)])
def test_the_limit_counts_the_flops_of_the_convolution(
    monkeypatch: pytest.MonkeyPatch, backward: bool, passes: int
) -> None:
    """2 seconds in one memory format, half a second in the other."""
    seconds = iter([2.0, 0.5])
    monkeypatch.setattr(Bench, "_seconds", lambda *_: next(seconds))
    rate = Bench(benchmarked("one_stage", ONE_STAGE, "vae", "cpu", 1), 0).limit(10, "fp32", backward=backward)
    assert rate == passes * 10 * convolution(16, 4, 8, 3) / 0.5


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return bench(
        tiny_run(),
        precisions=("fp32", "bf16"),
        batch_sizes=(4, 6),
        importance_samples=(3,),
        images=2,
        seconds=0,
        compiled=False,
    )


def test_the_record_is_consistent(record: dict[str, Any]) -> None:
    assert json.loads(json.dumps(record)) == record
    rows = [(row["precision"], row["batch"]) for row in record["training"]]
    assert rows == [("fp32", 4), ("fp32", 6), ("bf16", 4), ("bf16", 6)]
    costs = count(tiny_architecture(latent=2), "biva")
    for row in record["training"]:
        assert row["GFLOP/s"] == pytest.approx(row["images/s"] * costs.training / 1e9)
    for row in record["evaluation"]:
        assert row["GFLOP/s"] == pytest.approx(row["images*K/s"] * (costs.encoding / 3 + costs.sampling) / 1e9)
        assert row["noise"] > 0
    for row in record["training"] + record["evaluation"]:
        assert row["share"] == pytest.approx(row["GFLOP/s"] / row["limit"])
        assert row["peak GB"] > 0.05  # Python and torch alone


def test_the_report_shows_every_row(record: dict[str, Any]) -> None:
    lines = report(record).splitlines()
    assert lines[0].startswith("tiny, biva; largest convolution: ")
    for part, rows in (("training", 4), ("evaluation", 2)):
        start = lines.index(part) + 2
        assert [line.split()[0] for line in lines[start : start + rows]] == [row["precision"] for row in record[part]]


def test_a_device_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU agrees with itself to float32's rounding; with a likelihood 1% off it does not."""
    run = benchmarked("one_stage", ONE_STAGE, "vae", "cpu", 1)
    assert "one_stage, vae: " in check(run)

    def wrong_in_float32(likelihood: Tensor, kl: Tensor) -> Tensor:
        return elbo(likelihood, kl) * (1.01 if likelihood.dtype == torch.float32 else 1)

    monkeypatch.setattr("biva.bench.elbo", wrong_in_float32)
    with pytest.raises(UserError, match="more than rounding can"):
        check(run)
