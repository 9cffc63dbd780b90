"""Benchmarks: FLOPs against closed forms, statistics by hand, the record. No test asserts a time."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from biva.bench import limit, timing
from biva.bench.agreement import agreement
from biva.bench.flops import Convolution, Costs, count, count_labelled
from biva.bench.limit import convolution_calls, convolution_rates
from biva.bench.memory import peak_memory
from biva.bench.profile import largest_costs
from biva.bench.report import report
from biva.bench.run import bench
from biva.bench.timing import Timing, timed
from biva.bench.work import Subject, evaluation
from biva.bounds import elbo
from biva.errors import UserError
from biva.models.architectures import Architecture, Dropout, ModelName, Stage
from biva.models.hierarchical_vae import HierarchicalVAE
from biva.training.state import initial_state, step
from tests.models import MODELS, no_noise, tiny_architecture
from tests.unit.test_semi_supervised import labelled_dataset, labelled_run

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


# ------------------------------------------------------------------------------------------------------------ FLOPs


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


def test_the_largest_convolution_is_found() -> None:
    largest = count(ONE_STAGE, "vae").largest
    assert (largest.input, largest.weight) == ((4, 4, 4), (8, 4, 3, 3))
    assert largest.flops == convolution(16, 4, 8, 3)
    assert str(largest) == "3x3, 4 -> 8 channels, stride 1, on 4x4"


def test_a_strided_convolution_costs_a_quarter() -> None:
    def strided(stride: int) -> Architecture:
        stages = (ONE_STAGE.stages[0].model_copy(update={"stride": stride}),)
        return ONE_STAGE.model_copy(update={"stages": stages})

    full, quarter = (count(strided(stride), "vae").encoding for stride in (1, 2))
    # SAME padding reads 5x5 pixels for 2x2 outputs; the head sees 4 * 2 * 2 values
    assert full - quarter == convolution(16 - 4, 4, 8, 3) + 2 * (64 - 16) * 4


def test_only_what_needs_a_sample_is_counted_per_sample() -> None:
    """LVAE's inference but for its merges depends on x alone; BIVA's only in stage 1 (paper.md section 1)."""
    lvae, biva = (count(tiny_architecture(), model) for model in ("lvae", "biva"))
    assert lvae.encoding > biva.encoding
    assert lvae.sampling < biva.sampling


@pytest.mark.parametrize("model", MODELS)
def test_parameters_and_kept_bytes_are_those_of_a_real_pass(model: ModelName) -> None:
    costs, built, images = count(tiny_architecture(), model), HierarchicalVAE(tiny_architecture(), model), 5
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        terms = built(torch.zeros(images, 1, 4, 4), no_noise)
        loss = elbo(terms.log_likelihood, terms.kl).mean()
    assert loss.requires_grad  # keeps the graph, and so the addresses, alive until here
    parameters = {parameter.data_ptr() for parameter in built.parameters()}
    real = sum(size for address, size in kept.items() if address not in parameters)
    assert costs.kept_once + images * costs.kept == pytest.approx(real, rel=0.02)
    assert costs.parameters == sum(parameter.numel() for parameter in built.parameters())


def test_training_memory_by_hand() -> None:
    layer = Convolution((1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0), 2)
    costs = Costs(parameters=10, training=1, encoding=1, sampling=1, largest=layer, kept=3, kept_once=5)
    assert costs.training_memory(7) == 6 * 4 * 10 + 5 + 7 * 3


# ----------------------------------------------------------------------------------------------------------- timing


class Clock:
    """A clock that only calls advance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def call(self, name: str, *seconds: float) -> None:
        """Takes `seconds` in order, the last of them from then on."""
        self.calls.append(name)
        self.now += seconds[min(self.calls.count(name), len(seconds)) - 1]


def test_the_median_and_the_spread_by_hand() -> None:
    assert Timing((3.0, 1.0, 10.0, 2.0)).summary() == {"median": 2.5, "low": 1.0, "high": 10.0, "repeats": 4}


def test_warm_up_is_left_out_and_calls_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = {"a": lambda: clock.call("a", 100, 50, 1, 2, 3), "b": lambda: clock.call("b", 70, 60, 7)}
    timings = timed(calls, 3, CPU)
    assert timings == {"a": Timing((1.0, 2.0, 3.0)), "b": Timing((7.0, 7.0, 7.0))}
    assert clock.calls == ["a", "a", "b", "b", *("a", "b") * 3]


def test_a_short_call_is_repeated_until_it_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(timing, "SHORTEST", 1.0)
    timings = timed({"a": lambda: clock.call("a", 0.25)}, 2, CPU)
    assert timings["a"].seconds == (0.25, 0.25)
    assert len(clock.calls) == 2 + 2 * 4


@pytest.mark.parametrize(("backward", "passes"), [(False, 1), (True, 3)])
def test_the_rate_of_a_convolution_by_hand(backward: bool, passes: int) -> None:
    layer = Convolution((4, 4, 4), (8, 4, 3, 3), (1, 1), (1, 1), flops=9_216)
    timings = {"contiguous": Timing((1.0, 2.0, 4.0)), "channels_last": Timing((0.5,))}
    rates = convolution_rates(layer, 10, timings, backward=backward)
    assert rates == {"contiguous": passes * 46_080, "channels_last": passes * 184_320}
    for call in convolution_calls(layer, 2, "bf16", CPU, backward=backward).values():
        call()


def test_peak_memory_is_that_of_the_work() -> None:
    small, large = (peak_memory(functools.partial, torch.ones, size) for size in (1, 10**8))
    assert 3.9e8 < large - small < 4.5e8
    assert small > 5e7


# ----------------------------------------------------------------------------------------------------------- record


def subject(model: ModelName = "biva") -> Subject:
    return Subject("tiny", tiny_architecture(latent=2), model, "cpu", threads=1, compiled=False)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "SHORTEST", 1e-9)
        patch.setattr(limit, "MATRIX", {"cpu": 8})
        patch.setattr(limit, "COPY_BYTES", 8)
        patch.setattr("biva.bench.run.peak_memory", lambda *_: 5_000_000)
        patch.setattr("biva.bench.run._start_up", lambda *_: Timing((1.0, 2.0)).summary())
        return bench(
            subject(), precisions=("fp32", "bf16"), batch_sizes=(4, 6), importance_samples=(3,), images=2, repeats=3
        )


def test_the_record_is_consistent(record: dict[str, Any]) -> None:
    assert json.loads(json.dumps(record)) == record
    assert [(e["precision"], e["batch_size"]) for e in record["training"]] == [
        *(("fp32", 4), ("fp32", 6)),
        *(("bf16", 4), ("bf16", 6)),
    ]
    costs = count(tiny_architecture(latent=2), "biva")
    for entry in record["training"]:
        assert entry["images_per_second"] == pytest.approx(entry["batch_size"] / entry["seconds"]["median"])
        assert entry["flops_per_second"] == pytest.approx(entry["images_per_second"] * costs.training)
    for entry in record["evaluation"]:
        assert entry["image_samples_per_second"] == pytest.approx(2 * 3 / entry["seconds"]["median"])
        assert entry["flops_per_image_sample"] == costs.encoding / 3 + costs.sampling
        assert entry["ratio_to_sequential"] == pytest.approx(
            entry["image_samples_per_second"] * entry["sequential_seconds"]["median"] / 64
        )
        assert entry["ratio_to_plain"] == pytest.approx(
            entry["image_samples_per_second"] * entry["plain_seconds"]["median"] / 2
        )
    for entry in record["training"] + record["evaluation"]:
        best = max(entry["limit_flops_per_second"].values())
        assert entry["share_of_limit"] == pytest.approx(entry["flops_per_second"] / best)
        assert entry["peak_memory_bytes"] == 5_000_000
        assert entry["seconds"]["low"] <= entry["seconds"]["median"] <= entry["seconds"]["high"]


def test_bf16_is_compared_with_fp32(record: dict[str, Any]) -> None:
    exact, rough = record["evaluation"]
    assert "difference_from_fp32" not in exact
    assert rough["difference_from_fp32"]["mean"] == pytest.approx(rough["bound"] - exact["bound"], abs=1e-9)
    assert 0 < rough["difference_from_fp32"]["largest"] < 0.1


def test_the_report_shows_every_entry(record: dict[str, Any]) -> None:
    lines = report(record).splitlines()
    assert lines[0].startswith("tiny, biva: ")
    for heading, entries in (("training", 4), ("evaluation", 2)):
        start = next(number for number, line in enumerate(lines) if line.split()[:1] == [heading])
        assert [line.split()[0] for line in lines[start + 2 : start + 2 + entries]] == [
            entry["precision"] for entry in record[heading]
        ]
    assert lines[-2].endswith(" -")
    assert "5.0 MB" in lines[-1]


@pytest.mark.parametrize("model", MODELS)
def test_all_ways_of_evaluating_estimate_the_same(model: ModelName) -> None:
    """Random images, untrained weights: log-weights of importance sampling and of full passes agree in the mean."""
    work = evaluation(subject(model), "fp32", k=10, images=64)
    assert work.rows == 10 * 64
    sampled = work.importance().log_weights
    assert sampled.shape == (10, 64)
    for one_pass in (work.sequential, work.plain):
        passes = torch.stack([one_pass() for _ in range(10)])
        error = ((sampled.var() + passes.var()) / sampled.numel()).sqrt().item()
        assert abs(sampled.mean().item() - passes.mean().item()) < 5 * error


def test_only_plain_passes_normalise_weights() -> None:
    """Counted by the operation that does it, in one pass of each."""
    work, counts = evaluation(subject(), "fp32", k=2, images=3), []
    for call in (work.importance, work.sequential, work.plain):
        with torch.profiler.profile() as profile:
            call()
        counts.append(sum(event.count for event in profile.key_averages() if event.key == "aten::_weight_norm"))
    built = HierarchicalVAE(tiny_architecture(latent=2), "biva")
    assert counts == [0, 0, sum(name.endswith("original0") for name, _ in built.named_parameters())]


@pytest.mark.parametrize("model", ["biva", "classifier"])
def test_flops_of_learning_from_labels_are_those_of_a_real_update(model: str) -> None:
    run = labelled_run(model)
    state = initial_state(run, labelled_dataset(), torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        step(state, run.training)
    assert count_labelled(run).training == counter.get_total_flops() // run.training.batch_size


def test_the_largest_cost_is_the_product_that_does_nearly_all_of_the_work() -> None:
    """A product of 2 x 10^9 FLOPs beside a thousand additions."""
    factor, few = torch.ones(1000, 1000), torch.ones(1000)
    costs = largest_costs(lambda: (factor @ factor, few + few), CPU)
    assert (costs[0]["operation"], costs[0]["calls"]) == ("aten::mm", 1)
    assert costs[0]["share"] > 0.5
    assert sum(cost["share"] for cost in costs) <= 1 + 1e-9
    assert "aten::add" in {cost["operation"] for cost in costs}


def test_a_device_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU agrees with itself to float32's rounding; with a likelihood 1% off it does not."""
    subject = Subject("one_stage", ONE_STAGE, "vae", "cpu", 1, compiled=False)
    assert "one_stage, vae: " in agreement(subject)

    def wrong_in_float32(likelihood: Tensor, kl: Tensor) -> Tensor:
        return elbo(likelihood, kl) * (1.01 if likelihood.dtype == torch.float32 else 1)

    monkeypatch.setattr("biva.bench.agreement.elbo", wrong_in_float32)
    with pytest.raises(UserError, match="more than rounding can"):
        agreement(subject)
