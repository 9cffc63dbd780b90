"""Training: hand-computed updates, selection, early stopping, and resuming to the same bits."""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from biva import records
from biva.config import RunConfig, Training
from biva.data.datasets import Dataset
from biva.data.inputs import fixed_input, part
from biva.errors import UserError
from biva.models.architectures import ModelName
from biva.models.build import build_model
from biva.records import RunFolder
from biva.seeds import derive_seed
from biva.training import checkpoint, loop
from biva.training.batches import Batches
from biva.training.loop import train
from biva.training.objectives import loss_of
from biva.training.selection import count_active, mean_bound, selection_of
from biva.training.state import State, initial_state, step
from tests.models import MODELS, tiny_architecture

CPU = torch.device("cpu")


def toy_dataset(fingerprint: str = "f" * 64) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 17, (60, 1, 4, 4), generator=generator, dtype=torch.uint8)
    splits = {"train": images[:40], "valid": images[40:50], "test": images[50:]}
    return Dataset(
        name="toy",
        fingerprint=fingerprint,
        shape=(1, 4, 4),
        levels=17,
        binarisation="dynamic",
        images=splits,
        labels={split: torch.arange(len(part)) % 10 for split, part in splits.items()},
    )


def toy_run(model: ModelName = "biva", stages: int = 2, **training: Any) -> RunConfig:
    settings = {
        "protocol": "clean",
        "batch_size": 12,
        "max_updates": 12,
        "evaluate_every": 4,
        "checkpoint_seconds": 1e9,
    }
    architecture = tiny_architecture(latent=2, stages=stages)
    dropout = architecture.dropout.model_copy(update={"inference": 0.5, "generative": 0.5})
    return RunConfig(
        experiments="toys",
        dataset="toy",
        model=model,
        architecture_name="tiny",
        seed=1,
        device="cpu",
        threads=1,
        architecture=architecture.model_copy(update={"dropout": dropout}),
        training=Training(**(settings | training)),
    )


def run_to_end(
    folder: Path, run: RunConfig | None = None, on_evaluation: Callable[[], None] = lambda: None
) -> RunFolder:
    train(run or toy_run(), toy_dataset(), RunFolder(folder), on_evaluation)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run, which no test may change."""
    return run_to_end(tmp_path_factory.mktemp("whole"))


def numbers(folder: RunFolder) -> list[dict[str, Any]]:
    """The run record without what depends on the clock."""
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in records.read_lines(folder.record)]


def assert_same_result(one: RunFolder, other: RunFolder) -> None:
    assert numbers(one) == numbers(other)
    assert len({records.read_json(run.training)["loss_growth"] for run in (one, other)}) == 1
    assert one.weights.read_bytes() == other.weights.read_bytes()
    drawn = [run.samples.read_bytes() if run.samples.is_file() else None for run in (one, other)]  # none with labels
    assert drawn[0] == drawn[1]


def test_ema_and_schedule_by_hand() -> None:
    """EMA_t = d EMA_(t-1) + (1 - d) w_t from the initialised weights; rate_t = max(r f^t, minimum)."""
    run = toy_run(ema_decay=0.9, learning_rate=0.01, learning_rate_decay=0.5, learning_rate_minimum=0.002)
    state = initial_state(run, toy_dataset(), CPU)
    weight = next(p for p in state.model.parameters() if p.numel() > 10)
    averaged = next(p for p in state.ema.parameters() if p.shape == weight.shape)
    expected, rates = weight.detach().clone(), []
    assert torch.equal(averaged, expected)
    for _ in range(4):
        assert step(state) == []
        rates.append(state.optimiser.param_groups[0]["lr"])
        expected = 0.9 * expected + 0.1 * weight.detach()
        torch.testing.assert_close(averaged, expected)
    assert rates == pytest.approx([0.01, 0.005, 0.0025, 0.002])


def without_randomness(**training: Any) -> State:
    """A state of which an update depends on weights and batch alone."""
    state = initial_state(toy_run(**training), toy_dataset(), CPU)
    state.noise = lambda _name, shape: torch.zeros(shape)
    for module in state.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    return state


def test_a_batch_in_pieces_is_the_same_update_and_the_gradient_norm_is_that_of_all_parameters() -> None:
    """Without noise and dropout the mean over the batch is the mean over its pieces, in loss and gradient."""
    gradients, sums = {}, {}
    for pieces in (1, 3):
        state = without_randomness(accumulate=pieces)
        step(state)
        gradients[pieces] = [w.grad for w in state.model.parameters() if w.grad is not None]
        sums[pieces] = state.sums
    torch.testing.assert_close(gradients[3], gradients[1], atol=1e-5, rtol=1e-4)
    assert sums[3] == pytest.approx(sums[1], rel=1e-5)
    squares = sum(gradient.double().square().sum().item() for gradient in gradients[1])
    assert sums[1]["gradient_norm"] == pytest.approx(math.sqrt(squares), rel=1e-5)


@pytest.mark.parametrize("update", [0, 3, 9])
def test_the_training_loss_is_the_negative_elbo_with_free_bits(update: int) -> None:
    """-log p(x | z) + w sum over groups of max(KL, free bits), in numpy; some KL terms are below; both change."""
    run = toy_run(free_bits=0.01, free_bits_updates=6, kl_warm_up=4)
    free_bits, weight = {0: (0.01, 0.0), 3: (0.005, 0.75), 9: (-np.inf, 1.0)}[update]
    model: Any = initial_state(run, toy_dataset(), CPU).model.eval()
    x = torch.randint(0, 2, (8, 1, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    torch.manual_seed(3)
    noise = {group: torch.randn(8, 2) for group in ("q(z1_bu)", "q(z1_td)", "q(z2)")}
    with torch.no_grad():
        terms = model(x, lambda name, _shape: noise[name])
        loss = loss_of(run, model, x, lambda name, _shape: noise[name], update)
    kl = terms.kl.double().numpy()
    assert (kl < 0.005).any() and (kl > 0.005).any()
    expected = (weight * np.maximum(kl, free_bits).sum(1) - terms.log_likelihood.double().numpy()).mean()
    assert loss.value.item() == pytest.approx(expected, rel=1e-6)


def test_bf16_training_keeps_float32_weights_and_nearly_the_loss() -> None:
    """bfloat16 has 8 bits of mantissa; likelihood and KL are summed in float32."""
    losses = {}
    for precision in ("fp32", "bf16"):
        run = toy_run(precision=precision)
        state = initial_state(run, toy_dataset(), CPU)
        step(state)
        losses[precision] = state.sums["loss"]
        assert {weight.dtype for weight in state.model.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.01)


def test_an_update_is_adamax() -> None:
    """First step of Adamax: w - r / (1 - b1) * (1 - b1) g / |g| = w - r sign(g), wherever g is not tiny."""
    run = toy_run(learning_rate=0.01, betas=(0.8, 0.95))
    state = initial_state(run, toy_dataset(), CPU)
    weight = next(p for p in state.model.parameters() if p.numel() > 10)
    before = weight.detach().clone()
    step(state)
    assert weight.grad is not None
    assert state.optimiser.param_groups[0]["betas"] == run.training.betas
    large = weight.grad.abs() > 1e-4
    assert large.any()
    torch.testing.assert_close(weight[large], (before - 0.01 * weight.grad.sign())[large], atol=1e-5, rtol=0)


def test_an_epoch_uses_every_image_at_most_once_and_all_batches_are_full() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    batches = Batches(replace(toy_dataset(), levels=11, binarisation="none"), images, None, 3, 0, CPU)
    assert batches.per_epoch == 3
    epochs = [torch.cat([batches.next() for _ in range(3)]).flatten() for _ in range(2)]
    for epoch in epochs:
        assert len(epoch.unique()) == 9
    assert not torch.equal(*epochs)


def test_purposes_have_their_own_seeds() -> None:
    """Another model, with other initialisation and dropout, sees the same batches in the same order."""
    first, second = (initial_state(toy_run(model), toy_dataset(), CPU).batches for model in ("vae", "biva"))
    for _ in range(5):
        assert torch.equal(first.next(), second.next())


@pytest.mark.parametrize("model", MODELS)
def test_training_improves_the_bound(tmp_path: Path, model: ModelName) -> None:
    run = toy_run(model, max_updates=120, evaluate_every=40, learning_rate=0.01, ema_decay=0.5)
    lines = numbers(run_to_end(tmp_path, run))
    assert [line["update"] for line in lines] == [40, 80, 120]
    assert lines[-1]["train"]["elbo"] > lines[0]["train"]["elbo"]


def test_record_is_complete_and_consistent(whole: RunFolder) -> None:
    lines = records.read_lines(whole.record)
    for line in lines:
        for terms in (line["train"], line["selection"]):
            assert terms["elbo"] == pytest.approx(terms["log_likelihood"] - terms["kl"])
        assert sum(line["kl_per_group"].values()) == pytest.approx(line["selection"]["kl"])
        assert line["active_units"].keys() == line["kl_per_group"].keys()
        assert line["train"]["loss"] >= -line["train"]["elbo"]  # free bits only add
        assert line["epoch"] == line["update"] / 3
        assert 0 < line["train"]["gradient_norm"] < 1e6
    result, identity = records.read_json(whole.training), records.read_json(whole.identity)
    best = max(lines, key=lambda line: line["selection"]["elbo"])
    assert result["selected"] == {"update": best["update"], "elbo": best["selection"]["elbo"]}
    assert (result["updates"], result["images_seen"], result["stopped"]) == (12, 144, "max_updates")
    images = [result[f"selection_{name}"] for name in ("split", "images", "images_in_split")]
    assert images == ["valid", 10, 10]
    assert identity["parameters"] == sum(value.numel() for value in load_file(whole.weights).values())
    assert RunConfig.model_validate(identity["config"]) == toy_run()
    assert identity["hardware"]["instruction_set"] == torch.backends.cpu.get_cpu_capability()


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("others", [{}, {"minutes": 1000.0}])
def test_on_a_terminal_a_bar_and_in_a_log_a_line_per_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, others: dict[str, Any]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr("sys.stderr", shown := Terminal() if terminal else io.StringIO())
    run = toy_run(**others)
    lines = records.read_lines(run_to_end(tmp_path, run).record)
    text, elbos = shown.getvalue(), [f"ELBO {line['selection']['elbo']:.2f} nats" for line in lines]
    if terminal:
        assert all(part in text for part in ("biva/seed1", f"12 of 12, {elbos[-1][:-5]}, KL", "\x1b["))
    else:
        starts = [f"{run.name}: update {4 * n} of at most 12, {elbo}" for n, elbo in enumerate(elbos, 1)]
        assert [line.partition(", KL")[0] for line in text.splitlines()] == starts


def test_another_seed_and_other_selection_images_are_other_runs(tmp_path: Path, whole: RunFolder) -> None:
    assert numbers(whole) != numbers(run_to_end(tmp_path / "two", toy_run().model_copy(update={"seed": 2})))
    part = run_to_end(tmp_path / "part", toy_run(selection_images=4))
    result = records.read_json(part.training)
    assert (result["selection_images"], result["selection_images_in_split"]) == (4, 10)
    for line, other in zip(numbers(part), numbers(whole), strict=True):
        assert line["train"] == other["train"]
        assert line["selection"] != other["selection"]


def test_selection_is_the_elbo_of_the_drawn_images() -> None:
    """Recomputed image by image with the numbers that selection drew; the same at every evaluation."""
    run = toy_run(selection_images=7, batch_size=3)
    state, dataset = initial_state(run, toy_dataset(), CPU), toy_dataset()
    selection = selection_of(run, dataset)
    assert selection is not None
    whole = fixed_input(dataset, "valid")
    drawn = part(dataset.name, "valid", 10, 7)
    assert torch.equal(selection.images, whole[drawn])
    assert torch.equal(selection.activity, selection.images)
    first, by_group = mean_bound(run, state.ema, selection.images, CPU)
    assert (first, by_group) == mean_bound(run, state.ema, selection.images, CPU)
    generator, elbos, model = torch.Generator().manual_seed(derive_seed(1, "selection")), [], state.ema
    for images in selection.images.split(3):
        with torch.no_grad():
            terms = model(images, lambda _name, shape: torch.randn(shape, generator=generator))
        elbos += [ll - sum(kl) for ll, kl in zip(terms.log_likelihood.tolist(), terms.kl.tolist(), strict=True)]
    assert len(elbos) == 7
    assert first["elbo"] == pytest.approx(sum(elbos) / 7, rel=1e-5)
    assert sum(by_group.values()) == pytest.approx(first["kl"])


def test_active_units_of_weights_with_known_activity() -> None:
    """After initialisation every posterior mean has s.d. 0.01 over a batch, variance 0.0001 against the threshold 0.01.

    Made a hundred times as steep, one unit of z1 has variance 1.
    """
    run = toy_run("vae")
    averaged: Any = initial_state(run, toy_dataset(), CPU).ema
    x = fixed_input(toy_dataset(), "valid")
    none = {"active": 0, "total": 2}
    assert count_active(run, averaged, x, CPU) == {"z1": none, "z2": none}
    with torch.no_grad():
        averaged.inference.heads[0].layer.parametrizations.weight.original0[1] *= 100
    assert count_active(run, averaged, x, CPU) == {"z1": {"active": 1, "total": 2}, "z2": none}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("level", [None, 0, 16], ids=["one image", "black images", "white images"])
def test_what_has_no_spread_is_trained_on(model: ModelName, level: int | None, tmp_path: Path) -> None:
    """A batch of one image, or of equal ones, begins near the bound of coins, -16 log 2 = -11 nats."""
    dataset = toy_dataset()
    run = toy_run(model, batch_size=1 if level is None else 12, max_updates=2, evaluate_every=2, free_bits=0)
    if level is not None:
        dataset = replace(dataset, images={name: torch.full_like(x, level) for name, x in dataset.images.items()})
    train(run, dataset, RunFolder(tmp_path), lambda: None)
    (line,) = records.read_lines(RunFolder(tmp_path).record)
    assert line["skipped_updates"] == 0
    assert -50 < line["selection"]["elbo"] < -5


def test_an_elbo_that_is_no_number_ends_training_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_run: RunConfig, _model: Any, x: torch.Tensor, _noise: Any) -> Any:
        return torch.full((len(x),), torch.nan), {"z1": torch.zeros(len(x))}

    monkeypatch.setattr("biva.training.selection.bound_terms", broken)
    with pytest.raises(UserError, match=r"ELBO of the averaged weights .* is nan.*Lower training\.learning_rate"):
        run_to_end(tmp_path)


def test_the_weights_of_a_run_are_the_moving_average(tmp_path: Path) -> None:
    run = toy_run(evaluate_every=2, max_updates=2)
    state = initial_state(run, toy_dataset(), CPU)
    for _ in range(2):
        step(state)
    published = load_file(run_to_end(tmp_path, run).weights)
    assert all(torch.equal(value, published[name]) for name, value in state.ema.state_dict().items())
    assert any(not torch.equal(value, published[name]) for name, value in state.model.state_dict().items())


def test_samples_are_of_the_averaged_weights_and_change_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run(evaluate_every=2, max_updates=10)
    folder = run_to_end(tmp_path / "with", run)
    samples = load_file(folder.samples)
    assert sorted(map(int, samples)) == [2, 4, 8]  # the first, second and fourth evaluation of five
    assert not torch.equal(samples["2"], samples["8"])
    assert "samples.safetensors" in records.read_json(folder.manifest)["files"]
    short = run_to_end(tmp_path / "short", toy_run(evaluate_every=2, max_updates=2))
    model = build_model(run.architecture, run.model)
    model.load_state_dict(load_file(short.weights))
    assert torch.equal(images_of_prior(model), samples["2"])
    monkeypatch.setattr(loop, "samples", lambda *_: None)
    without = run_to_end(tmp_path / "without", run)
    assert not without.samples.exists()
    assert numbers(without) == numbers(folder)
    assert without.weights.read_bytes() == folder.weights.read_bytes()


def images_of_prior(model: Any) -> torch.Tensor:
    """16 pixel means as bytes, drawn with the noise that a run of seed 1 keeps for it."""
    generator = torch.Generator().manual_seed(derive_seed(1, "samples during training"))
    with torch.no_grad():
        logits = model.eval().sample(16, lambda _name, shape: torch.randn(shape, generator=generator))
    return (255 * torch.sigmoid(logits)).round().to(torch.uint8)


def test_early_stopping_and_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ELBO 1, 3, 2, 2: the second is selected, and after two evaluations without a new best training stops."""
    scores = iter([1.0, 3.0, 2.0, 2.0, 9.0])
    weights = []

    def scripted(_run: RunConfig, model: Any, *_: Any) -> tuple[dict[str, float], dict[str, float]]:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"elbo": next(scores), "log_likelihood": 0.0, "kl": 0.0}, {}

    monkeypatch.setattr(loop, "mean_bound", scripted)
    folder = run_to_end(tmp_path, toy_run(max_updates=100, patience=2))
    result = records.read_json(folder.training)
    assert (result["stopped"], result["updates"], result["selected"]) == (
        "early stopping",
        16,
        {"update": 8, "elbo": 3.0},
    )
    for name, value in load_file(folder.weights).items():
        assert torch.equal(value, weights[1][name])


@pytest.mark.parametrize(
    ("protocol", "train_split", "selection_split"), [("paper", 50, "test"), ("clean", 40, "valid")]
)
def test_protocols(tmp_path: Path, protocol: str, train_split: int, selection_split: str) -> None:
    run = toy_run(protocol=protocol, max_updates=4)
    state: Any = initial_state(run, toy_dataset(), CPU)
    assert len(state.batches.images) == train_split
    assert records.read_json(run_to_end(tmp_path, run).training)["selection_split"] == selection_split


class Killed(BaseException):
    """Stands for a SIGKILL in this process: nothing of the run may handle it."""


@contextmanager
def killed_after(updates: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A training within this context must be killed after so many updates; later ones are not."""
    calls = iter(range(1, 100))

    def dying(state: State) -> list[str]:
        not_finite = step(state)
        if next(calls) == updates:
            raise Killed
        return not_finite

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", dying)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("updates", [1, 4, 5, 12])
def test_resumed_training_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: int, whole: RunFolder
) -> None:
    """Killed after any update, with a checkpoint at every one before, and restarted."""
    run = toy_run(checkpoint_seconds=0)
    with killed_after(updates, monkeypatch):
        run_to_end(tmp_path / "parts", run)
    parts = run_to_end(tmp_path / "parts", run)
    assert_same_result(parts, whole)
    if updates > 1:
        assert records.read_json(parts.identity)["resumed"][0]["update"] == updates - 1


def test_killed_before_the_first_checkpoint_is_the_same_run_again(tmp_path: Path) -> None:
    """MLflow has seen it under this id."""

    def dying() -> None:  # called first at the start
        raise Killed

    with pytest.raises(Killed):
        run_to_end(tmp_path, on_evaluation=dying)
    run_id = records.read_json(tmp_path / "run.json")["run_id"]
    assert records.read_json(run_to_end(tmp_path).identity)["run_id"] == run_id


def test_killed_between_record_and_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: RunFolder
) -> None:
    """The line after the last checkpoint is made again, not doubled; a half-written line is dropped."""
    monkeypatch.setattr(loop, "TELL_SECONDS", 0)
    lines = iter(range(1, 100))

    def dying() -> None:  # called at the start, then after every line, before its checkpoint
        if next(lines) == 3:
            raise Killed

    with pytest.raises(Killed):
        run_to_end(tmp_path / "parts", on_evaluation=dying)
    assert len(numbers(RunFolder(tmp_path / "parts"))) == 2
    with (tmp_path / "parts" / "record.jsonl").open("a") as file:
        file.write('{"update": 9, "sel')
    assert_same_result(run_to_end(tmp_path / "parts"), whole)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_training_repeats_and_resumes_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same random numbers as without compiling, other roundings; compiled once more, the same bits."""
    losses = []
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    for name, compiled in (("eager", False), ("whole", True)):
        folder = run_to_end(tmp_path / name, toy_run("vae", stages=1, compiled=compiled))
        losses.append([line["train"]["loss"] for line in numbers(folder)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert "compiling included" in capsys.readouterr().err
    assert "g++" in records.read_json(folder.identity)["versions"]["compiler"]

    torch._dynamo.reset()
    run = toy_run("vae", stages=1, compiled=True, checkpoint_seconds=0)
    with killed_after(5, monkeypatch):
        run_to_end(tmp_path / "parts", run)
    assert_same_result(run_to_end(tmp_path / "parts", run), folder)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CXX", "no-such-compiler", "there is no 'no-such-compiler'"),
        ("TORCHINDUCTOR_CACHE_DIR", "/my cache", "a path that has a space: /my cache"),
    ],
)
def test_what_cannot_be_compiled_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv("CXX", "true")  # a command that is there
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message):
        run_to_end(tmp_path / "run", toy_run(compiled=True))
    assert not (tmp_path / "run").exists()


def one_bit_flipped(content: bytes) -> bytes:
    """In the largest tensor, where it changes a number and nothing else."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        tensors = [entry for entry in file.infolist() if "/data/" in entry.filename]
        tensor = file.read(max(tensors, key=lambda entry: entry.file_size))
    return content.replace(tensor, bytes([tensor[0] ^ 1]) + tensor[1:], 1)


@pytest.mark.parametrize("damage", [lambda content: content[:1000], one_bit_flipped], ids=["cut", "one bit flipped"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes], whole: RunFolder
) -> None:
    parts = run_to_end(tmp_path / "parts")
    newest = parts.checkpoint / checkpoint.NEWEST
    damaged = damage(newest.read_bytes())
    newest.write_bytes(damaged)
    parts.training.unlink()
    assert_same_result(run_to_end(tmp_path / "parts"), whole)
    said = capsys.readouterr().err
    assert f"{newest} cannot be read" in said and f"going on from {parts.checkpoint / checkpoint.PREVIOUS}" in said
    assert (parts.checkpoint / checkpoint.DAMAGED).read_bytes() == damaged


def test_another_process_may_have_put_a_damaged_checkpoint_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between this process's look at it and its own attempt."""
    for update in (1, 2):
        checkpoint.save(tmp_path, {"update": update})
    newest, read = tmp_path / checkpoint.NEWEST, checkpoint._read
    newest.write_bytes(b"damaged")

    def read_after_the_other(path: Path) -> dict[str, Any]:
        if path != newest:
            newest.rename(tmp_path / checkpoint.DAMAGED)
        return read(path)

    monkeypatch.setattr(checkpoint, "_read", read_after_the_other)
    assert checkpoint.load(tmp_path) == {"update": 1}


def test_no_readable_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    folder = run_to_end(tmp_path)
    for path in folder.checkpoint.iterdir():
        path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"No checkpoint in .* can be read"):
        run_to_end(tmp_path)


def test_results_that_snakemake_deleted_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_to_end(tmp_path)
    weights = folder.weights.read_bytes()
    folder.weights.unlink()
    folder.training.unlink()
    monkeypatch.setattr(loop, "step", lambda *_: pytest.fail("trained again"))
    assert run_to_end(tmp_path).weights.read_bytes() == weights


def test_other_settings_set_the_earlier_run_aside(tmp_path: Path) -> None:
    first = run_to_end(tmp_path)
    identity, weights = records.read_json(first.identity), first.weights.read_bytes()
    second = run_to_end(tmp_path, toy_run(free_bits=0.5))
    kept = RunFolder(tmp_path / "superseded" / identity["run_id"])
    assert kept.weights.read_bytes() == weights
    assert records.read_json(kept.identity) == identity
    assert (kept.checkpoint / checkpoint.NEWEST).exists()
    assert records.read_json(second.identity)["run_id"] != identity["run_id"]
    assert "resumed" not in records.read_json(second.identity)


def test_a_kill_while_the_earlier_run_is_set_aside_mixes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each of the moves: the new run never starts from the earlier one's checkpoint."""
    other = toy_run(free_bits=0.5, max_updates=4)
    expected = run_to_end(tmp_path / "expected", other)
    first = run_to_end(tmp_path / "one", toy_run(max_updates=4))
    move, files = Path.rename, len([path for path in first.path.iterdir() if path.name != ".lock"])
    for moves in range(1, files + 1):
        folder = shutil.copytree(first.path, tmp_path / f"killed_after_{moves}")
        left = iter(range(moves))

        def dying(path: Path, target: Path, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed
            move(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", dying)
            with suppress(Killed):
                run_to_end(folder, other)
        assert_same_result(run_to_end(folder, other), expected)


def test_what_changes_no_result_keeps_the_run(tmp_path: Path) -> None:
    run_id = records.read_json(run_to_end(tmp_path).identity)["run_id"]
    again = run_to_end(tmp_path, toy_run(checkpoint_seconds=5))
    assert records.read_json(again.identity)["run_id"] == run_id


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory.\nMore"), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_too_little_memory_is_one_line_that_says_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(loop, "step", Mock(side_effect=error))
    with pytest.raises(UserError, match=r"memory does not suffice \(.*\)\. Use a larger training\.accumulate"):
        run_to_end(tmp_path)
    monkeypatch.setattr(loop, "step", Mock(side_effect=RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):
        run_to_end(tmp_path)


def test_batch_larger_than_the_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_size is 41, but dataset 'toy' has only 40"):
        run_to_end(tmp_path, toy_run(batch_size=41))


def test_write_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    records.write_json(path, {"a": 1})

    monkeypatch.setattr("os.fsync", _disk_full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        records.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_during_training_is_one_message_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: RunFolder
) -> None:
    calls = iter(range(1, 100))

    def full_at_the_second_line(path: Path, content: dict[str, Any]) -> None:
        with monkeypatch.context() as patch:
            if next(calls) == 2:
                patch.setattr("os.fsync", _disk_full)
            append_line(path, content)

    append_line = records.append_line
    monkeypatch.setattr(records, "append_line", full_at_the_second_line)
    with pytest.raises(OSError, match=r"No space left on device: '.*record\.jsonl'"):
        run_to_end(tmp_path / "parts")
    monkeypatch.undo()
    assert_same_result(run_to_end(tmp_path / "parts"), whole)


def _disk_full(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")
