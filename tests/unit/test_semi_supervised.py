"""Semi-supervised BIVA: bounds by enumeration and integration over a grid, gradients, labels, training, evaluation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from biva import records
from biva.bounds import class_kl, elbo, labelled_bound, unlabelled_bound
from biva.config import AnomalyPair, Evaluation, Labels, RunConfig
from biva.data.inputs import part
from biva.data.labels import balanced_draw
from biva.errors import UserError
from biva.evaluation.classification import classify, unlabelled_terms
from biva.evaluation.detect import detect
from biva.evaluation.noise import sample_noise
from biva.evaluation.run import evaluate
from biva.models.semi_supervised import SemiSupervisedVAE, SupervisedClassifier
from biva.records import RunFolder
from biva.training.loop import train
from biva.training.objectives import bound_terms, loss_of
from biva.training.state import initial_state
from tests.models import (
    assert_gradient_by_finite_differences,
    double_noise,
    no_noise,
    tiny_architecture,
    with_large_weights,
)
from tests.unit.test_models import log_marginal
from tests.unit.test_training import CPU, assert_same_result, killed_after, numbers, run_to_end, toy_dataset, toy_run

CLASSES = 3


def tiny_semi_supervised(classes: int = CLASSES, seed: int = 0, **sizes: object) -> SemiSupervisedVAE:
    torch.manual_seed(seed)
    return with_large_weights(SemiSupervisedVAE(tiny_architecture(**sizes), classes))  # type: ignore[arg-type]


def binary_images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed)).double()


# ---------------------------------------------------------------------------------------------------------- bounds


def test_bounds_by_hand() -> None:
    """Two classes, q = (1/4, 3/4): 1/4 (-10 - log 1/4) + 3/4 (-12 - log 3/4), each bound already with log 1/2."""
    log_q = torch.tensor([[0.25, 0.75]]).double().log()
    by_class = labelled_bound(torch.tensor([-8.0, -9.0]).double(), torch.tensor([[1.0, 1.0], [2.0, 1.0]]), 2)
    assert by_class.tolist() == [-10 - math.log(2), -12 - math.log(2)]
    expected = -11.5 - math.log(2) + 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert unlabelled_bound(by_class[:, None], log_q).item() == pytest.approx(expected)
    assert class_kl(log_q).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_the_unlabelled_bound_is_the_largest_where_q_is_the_posterior() -> None:
    """sum_y q(y) (log p(x, y) - log q(y)) <= log sum_y p(x, y), with equality at q(y) = p(y | x)."""
    log_joint = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.logsumexp(log_joint, 0)
    torch.testing.assert_close(unlabelled_bound(log_joint, torch.log_softmax(log_joint.T, 1)), exact)
    assert (unlabelled_bound(log_joint, torch.log_softmax(torch.randn(5, 4).double(), 1)) < exact).all()


@pytest.mark.parametrize("latents", ["dense", "convolutional"])
def test_classes_together_equal_one_labelled_pass_each(latents: str) -> None:
    """The unlabelled bound against a pass per class with the same noise, combined in numpy."""
    model, x, images = tiny_semi_supervised(latents=latents, latent=2), binary_images(2), 2
    drawn: dict[str, Tensor] = {}

    def remember(name: str, shape: torch.Size) -> Tensor:
        return drawn.setdefault(name, double_noise(name, shape))

    with torch.no_grad():
        log_q, together = model(x, torch.empty(0, dtype=torch.int64), remember)
        expected = np.zeros(images)
        for y in range(CLASSES):
            rows = slice(images * y, images * (y + 1))
            noise = {name: numbers if len(numbers) == images else numbers[rows] for name, numbers in drawn.items()}
            same_log_q, alone = model(x, torch.full((images,), y), lambda name, _shape, noise=noise: noise[name])
            torch.testing.assert_close(same_log_q, log_q)
            torch.testing.assert_close(alone.kl, together.kl[rows])
            log_joint = alone.log_likelihood.numpy() - alone.kl.numpy().sum(1) - np.log(CLASSES)
            q = np.exp(log_q.numpy()[:, y])
            expected += q * (log_joint - np.log(q))
    by_class = labelled_bound(together.log_likelihood, together.kl, CLASSES).view(CLASSES, images)
    np.testing.assert_allclose(unlabelled_bound(by_class, log_q).numpy(), expected, rtol=1e-12)


def test_weights_integrate_to_the_marginal_likelihood_and_bounds_stay_below_it() -> None:
    """p(x, z | y) / q(z | x, y) averages to p(x | y) only if z really comes from q(z | x, y) with its z^BU."""
    classes = 2
    model, x = tiny_semi_supervised(classes, seed=3), binary_images(1, seed=1)
    top: Any = model.generative.stages[-1]
    weight = top.projection.layer.parametrizations.weight
    with torch.no_grad():  # so that the class matters
        weight.original0.mul_(4)
        weight.original1[:, 1:].mul_(10)
    samples = 10_000
    torch.manual_seed(0)
    with torch.no_grad():
        exact = [log_marginal(model, x[0], y) for y in range(classes)]
        many = x.expand(samples, 1, 4, 4)
        log_q, terms = model(many, torch.empty(0, dtype=torch.int64), double_noise)
    log_weights = elbo(terms.log_likelihood, terms.kl).view(classes, samples)
    assert abs(exact[1] - exact[0]) > 0.15
    for y in range(classes):
        weights = (log_weights[y] - exact[y]).exp()
        error = weights.std().item() / math.sqrt(samples)
        assert error < 0.02
        assert abs(weights.mean().item() - 1) < 5 * error
        assert log_weights[y].mean() < exact[y]
    bound = unlabelled_bound(log_weights - math.log(classes), log_q)
    log_p = math.log(sum(map(math.exp, exact)) / classes)
    assert bound.mean().item() + 5 * bound.std().item() / math.sqrt(samples) < log_p


# ------------------------------------------------------------------------------------------------------ the models


def labelled_run(model: str = "biva", count: int = 20, weight: float = 2.0, **training: Any) -> RunConfig:
    labels = Labels(count=count, batch_size=5, weight=weight if model == "biva" else None)
    return toy_run(**({"batch_size": 4} | training)).model_copy(update={"model": model, "labels": labels})


@pytest.mark.parametrize("free_bits", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["biva", "classifier"])
def test_gradients_are_finite_differences(kind: str, free_bits: float) -> None:
    """Directional derivative of the training loss over all parameters, in float64, noise held fixed."""
    run = labelled_run(kind, free_bits=free_bits)
    torch.manual_seed(0)
    build = SemiSupervisedVAE if kind == "biva" else SupervisedClassifier
    model = with_large_weights(build(tiny_architecture(), 10))
    labels = torch.tensor([3, 9])
    batch = (binary_images(4 if kind == "biva" else 2), labels)

    def loss() -> Tensor:
        torch.manual_seed(5)
        return loss_of(run, model, batch, double_noise).value

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)  # raises where a parameter is not used
    assert_gradient_by_finite_differences(loss, parameters, gradients)


@pytest.mark.parametrize(("free_bits", "weight"), [(0.0, 1.0), (0.02, 0.5)])
def test_the_loss_is_the_sum_of_its_three_terms(free_bits: float, weight: float) -> None:
    """alpha * cross-entropy - log p(x, y) bound - log p(x) bound, from passes of their own.

    In the loss the KL of every latent group is at least `free_bits`, and weighted; in the numbers it is as it is.
    """
    model, x, y = tiny_semi_supervised(10), binary_images(5), torch.tensor([3, 9])

    def zeros(_name: str, shape: torch.Size) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    run = labelled_run(weight=7.0, free_bits=free_bits, kl_warm_up=4)
    update = round(4 * weight)
    with torch.no_grad():
        loss, numbers, _ = loss_of(run, model, (x, y), zeros, update)
        log_likelihood, kl_by_group = bound_terms(run, model, x[2:], zeros)
        log_q, labelled = model(x[:2], y, zeros)
        log_q_rest, rest = model(x[2:], y[:0], zeros)
    q = log_q_rest.exp().numpy().T

    def bounds(free: float, weight: float) -> tuple[float, float]:
        """Of the labelled images, and of the others."""
        at_labels, by_class = (
            each.log_likelihood.numpy() - weight * np.maximum(each.kl.numpy(), free).sum(1) - np.log(10)
            for each in (labelled, rest)
        )
        return at_labels.mean(), (q * (by_class.reshape(10, 3) - np.log(q))).sum(0).mean()

    supervised = -(log_q[0, 3] + log_q[1, 9]).item() / 2
    unlabelled = bounds(-np.inf, 1.0)[1]
    assert numbers["cross_entropy"].item() == pytest.approx(supervised)
    assert (numbers["log_likelihood"] - numbers["kl"]).item() == pytest.approx(unlabelled)
    assert (log_likelihood - sum(kl_by_group.values())).mean().item() == pytest.approx(unlabelled)
    assert free_bits == 0 or ((rest.kl < free_bits).any() and (rest.kl > free_bits).any())
    assert loss.item() == pytest.approx(7 * supervised - sum(bounds(free_bits or -np.inf, weight)))
    wrong = (log_q[0].argmax() != 3).item() + (log_q[1].argmax() != 9).item()
    assert numbers["error"].item() == 50 * wrong


def test_the_class_enters_where_the_paper_says() -> None:
    """q(z_L | x, y, z^BU) and what follows depends on y; q(z^BU | x) and q(y | x, z^BU) do not know it."""
    model, x = tiny_semi_supervised(), binary_images(1)
    with torch.no_grad():
        passes = [model(x, torch.tensor([y]), no_noise) for y in (0, 1)]
    (first_q, first), (second_q, second) = passes
    assert torch.equal(first_q, second_q)
    moved = {
        name: not torch.equal(step.posterior.mean, second.walk.steps[name].posterior.mean)
        for name, step in first.walk.steps.items()
    }
    assert moved == {"z1_bu": False, "z1_td": True, "z2": True}
    priors = [terms.walk.steps["z1_bu"].prior.mean for terms in (first, second)]
    assert not torch.equal(*priors)  # p(z_1^BU | z_2, y)


def test_the_supervised_network_is_as_large_as_the_way_up() -> None:
    architecture = tiny_architecture()
    supervised, whole = SupervisedClassifier(architecture, 10), SemiSupervisedVAE(architecture, 10)
    shapes = {name: value.shape for name, value in supervised.state_dict().items()}
    assert shapes == {
        name: value.shape
        for name, value in whole.state_dict().items()
        if not name.startswith(("generative", "inference.merges", "inference.td_heads"))
    }


# -------------------------------------------------------------------------------------------------------- the draw


def test_the_draw_is_balanced_and_depends_on_the_seed_alone() -> None:
    labels = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(0))
    drawn = balanced_draw(labels, 20, 4, seed=1)
    assert torch.bincount(labels[drawn]).tolist() == [5, 5, 5, 5]
    assert len(drawn.unique()) == 20
    assert torch.equal(drawn, balanced_draw(labels, 20, 4, seed=1))
    assert not torch.equal(drawn, balanced_draw(labels, 20, 4, seed=2))


def test_every_image_of_a_class_is_as_likely() -> None:
    labels = torch.arange(12) % 2
    counts = torch.zeros(12)
    for seed in range(600):
        counts[balanced_draw(labels, 4, 2, seed)] += 1
    assert (counts - 200).abs().max() < 5 * math.sqrt(600 * 1 / 3 * 2 / 3)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (15, "is 15, which is not the same number of labels for each of 10 classes. Use a multiple of 10"),
        (0, "Use a multiple of 10"),
        (50, "is 50, 5 of each class, but class 0 has only 4 training images. Use fewer labels"),
    ],
)
def test_a_draw_that_cannot_be_is_refused(count: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        balanced_draw(torch.arange(40) % 10, count, 10, 0)


def test_both_models_of_a_seed_get_the_same_labelled_images_with_their_labels() -> None:
    dataset = toy_dataset()

    def batches(run: RunConfig) -> Any:
        return initial_state(run, dataset, CPU).batches

    mixed, alone = batches(labelled_run()).labelled, batches(labelled_run("classifier"))
    assert torch.equal(mixed.images, alone.images)
    assert torch.equal(mixed.labels, alone.labels)
    for image, label in zip(alone.images, alone.labels, strict=True):
        (place,) = [n for n, other in enumerate(dataset.images["train"]) if torch.equal(image, other)]
        assert dataset.labels["train"][place] == label
    other = batches(labelled_run().model_copy(update={"seed": 2})).labelled
    assert not torch.equal(mixed.images, other.images)


def test_a_batch_has_the_labels_of_its_images() -> None:
    dataset = replace(toy_dataset(), binarisation="none")
    batches: Any = initial_state(labelled_run("classifier"), dataset, CPU).batches
    shown = {tuple(image.flatten().tolist()): label for image, label in zip(
        2 * batches.images.float() / 16 - 1, batches.labels, strict=True)}  # fmt: skip
    for _ in range(6):  # over the end of an epoch of 4 batches
        x, y = batches.next()
        assert [shown[tuple(image.flatten().tolist())] for image in x] == y.tolist()


def test_a_dataset_without_labels_is_refused() -> None:
    with pytest.raises(UserError, match=r"'toy' has no labels.*mnist_dynamic"):
        initial_state(labelled_run(), replace(toy_dataset(), labels={}), CPU)


def test_labels_of_train_and_valid_follow_their_images() -> None:
    dataset = toy_dataset()
    assert len(dataset.labels_of("train+valid")) == len(dataset.split("train+valid"))
    assert torch.equal(dataset.labels_of("train+valid")[40:], dataset.labels["valid"])


# -------------------------------------------------------------------------------------------- training, evaluation


@pytest.mark.parametrize(("model", "updates"), [("biva", 8), ("classifier", 3)])
def test_resumed_training_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, updates: int
) -> None:
    whole = run_to_end(tmp_path / "whole", labelled_run(model))
    with killed_after(updates, monkeypatch):
        run_to_end(tmp_path / "parts", labelled_run(model, checkpoint_seconds=0))
    assert_same_result(run_to_end(tmp_path / "parts", labelled_run(model, checkpoint_seconds=0)), whole)


def test_the_record_of_a_semi_supervised_run_is_complete_and_selects_by_the_bound(tmp_path: Path) -> None:
    folder = run_to_end(tmp_path, labelled_run())
    lines, result = numbers(folder), records.read_json(folder.training)
    for line in lines:
        for kind in ("train", "selection"):
            assert line[kind]["elbo"] == pytest.approx(line[kind]["log_likelihood"] - line[kind]["kl"])
        assert sum(line["kl_per_group"].values()) == pytest.approx(line["selection"]["kl"])
        assert set(line["kl_per_group"]) == {"z1_bu", "z1_td", "z2", "y"}
        assert 0 <= line["kl_per_group"]["y"] <= math.log(10)
    best = max(lines, key=lambda line: line["selection"]["elbo"])
    assert result["selected"] == {"update": best["update"], "elbo": best["selection"]["elbo"]}
    assert (result["selection_split"], result["images_seen"]) == ("valid", 12 * (4 + 5))


def test_labels_of_other_splits_change_nothing(tmp_path: Path) -> None:
    """Neither training nor selection looks at a label of the validation or test split."""
    dataset = toy_dataset()
    one = run_to_end(tmp_path / "one", labelled_run())
    wrong = replace(dataset, labels={"train": dataset.labels["train"]})
    train(labelled_run(), wrong, RunFolder(tmp_path / "two"), lambda: None)
    assert_same_result(one, RunFolder(tmp_path / "two"))


def test_the_supervised_network_keeps_its_newest_weights(tmp_path: Path) -> None:
    folder = run_to_end(tmp_path, labelled_run("classifier", max_updates=60, evaluate_every=20, learning_rate=0.01))
    lines, result = numbers(folder), records.read_json(folder.training)
    assert result["selected"] == {"update": 60}
    assert result["selection_split"] is result["selection_images"] is None
    assert all(line["selection"] == line["kl_per_group"] == {} for line in lines)
    assert set(lines[0]["train"]) == {"error", "gradient_norm", "loss"}
    assert lines[-1]["train"]["loss"] < lines[0]["train"]["loss"]


@pytest.mark.parametrize("model", ["biva", "classifier"])
def test_the_test_error_counts_the_wrong_images(tmp_path: Path, model: str) -> None:
    folder = run_to_end(tmp_path, labelled_run(model))
    settings = Evaluation(importance_samples=(1,), max_images=7)
    evaluate(folder, settings, toy_dataset())
    record, arrays = records.read_json(folder.evaluation), load_file(folder.arrays)
    rows = {(row["metric"], row["k"]): row for row in record["metrics"]}
    assert arrays["log_q"].shape == (7, 10)
    np.testing.assert_allclose(np.exp(arrays["log_q"]).sum(1), 1, rtol=1e-5)
    labels = toy_dataset().labels["test"]
    drawn = part("toy", "test", len(labels), 7)
    wrong = (np.argmax(arrays["log_q"], axis=1) != labels[drawn].numpy()).sum()
    assert rows["test_error", None]["value"] == pytest.approx(100 * wrong / 7)
    assert rows["test_error", None]["unit"] == "percent"
    assert ("log_likelihood_bound", 1) in rows or model == "classifier"
    if model == "biva":
        bound = rows["log_likelihood_bound", 1]["value"]
        assert bound == pytest.approx(load_file(folder.bounds)["bound/1"].mean())
        assert bound == pytest.approx(rows["log_likelihood", 1]["value"] - rows["kl_divergence", 1]["value"])
        kl = sum(group["value"] for group in record["kl_per_group"].values())
        assert rows["kl_divergence", 1]["value"] == pytest.approx(kl)


def test_the_evaluated_bound_is_that_of_one_pass_and_does_not_depend_on_the_size_of_a_chunk() -> None:
    """sum over y of q(y | x) (log p(x | z) - KL - log Y - log q(y | x)), of one pass with the evaluation's noise."""
    model, x = tiny_semi_supervised().float(), binary_images(5).float()
    (bound, _, kls), (of_parts, _, kls_of_parts) = (
        unlabelled_terms(model, x, seed=1, rows=rows, device=CPU) for rows in (1000, 7)
    )
    with torch.no_grad():
        log_q, terms = model(x, torch.empty(0, dtype=torch.int64), sample_noise(1, range(5), 0, CPU))
    by_class = (terms.log_likelihood - terms.kl.sum(1)).view(CLASSES, 5).T - math.log(CLASSES)
    torch.testing.assert_close(bound.float(), (log_q.exp() * (by_class - log_q)).sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bound, of_parts, rtol=1e-5, atol=1e-5)
    for name, kl in kls.items():
        torch.testing.assert_close(kl, kls_of_parts[name], rtol=1e-4, atol=1e-5)


def test_images_are_classified_at_the_posterior_means() -> None:
    for model in (tiny_semi_supervised(), with_large_weights(SupervisedClassifier(tiny_architecture(), CLASSES))):
        with torch.no_grad():
            expected = model.log_q(model.ascend(binary_images(5), no_noise))
        torch.testing.assert_close(classify(model, binary_images(5), rows=2, device=CPU), expected)


def test_anomalies_are_not_scored_by_a_run_with_labels(tmp_path: Path) -> None:
    folder = run_to_end(tmp_path, labelled_run("classifier"))
    pair = AnomalyPair(name="pair", normal="toy", anomalous="toy", importance_samples=2)
    with pytest.raises(UserError, match="learned from labels"):
        detect(folder, pair, Evaluation(importance_samples=(1,)), toy_dataset(), toy_dataset())
