"""`biva same`: a re-run is told from the published one as often as it should be, in the right direction, to the bit."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from safetensors.numpy import save as serialise
from scipy import stats

from biva import cli
from biva.config import AnomalyPair, load_experiments, resolve_runs
from biva.errors import UserError
from biva.records import RunFolder, read_json, write_atomically, write_json
from biva.reporting.per_image import PerImage
from biva.reporting.rerun import DIFFERENT, EQUAL, NOT_PUBLISHED, UNKNOWN, WITHIN, compare, explained, report, status
from biva.reporting.results import Results, collect, write_results
from biva.reporting.table import NOT_RUN
from tests.fake_runs import anomaly_record, edit, fake_config, fake_run

ROOT = Path(__file__).parents[2]


NO_BOUNDS = (Path("nowhere"), Path("nowhere"))


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A result, as the results frame has it."""
    frame = collect([fake_run(tmp_path_factory.mktemp("row"), bounds={1: (-25.0, 0.5)})])
    (bound,) = frame[frame["metric"] == "log_likelihood_bound"].to_dict("records")
    return {str(column): value for column, value in bound.items()}


Make = Callable[..., Results]


@pytest.fixture
def results(row: dict[str, object]) -> Make:
    """Makes the results of one metric, a value per seed from the first one on."""

    def make(*values: float, first: int = 1, **changes: object) -> Results:
        rows = [row | changes | {"seed": first + n, "value": value} for n, value in enumerate(values)]
        return pd.DataFrame(rows, columns=[*row]).astype({"k": "Int64", "seed": "int64", "value": "float64"})

    return make


def with_bounds(folder: Path, *of_each: PerImage) -> tuple[Path, Path]:
    """Folders of two sets in which seed 1 of the run of `row` has these bounds at K = 1."""
    for name, bounds in zip("ab", of_each, strict=True):
        run = RunFolder(folder / name / "runs" / fake_config().name)
        write_atomically(run.bounds, serialise({"bound/1": bounds}))
    return folder / "a", folder / "b"


def verdict(published: Results, rerun: Results) -> str:
    (found,) = compare(published, rerun, NO_BOUNDS)["verdict"]
    return str(found)


# ---------------------------------------------------------------------------------------------------------- the test


def test_several_seeds_are_students_test_of_two_samples(results: Make) -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        before, after = random.normal(0, 1, 3), random.normal(-1, 1, 4)
        margin, source = explained(results(*before), results(*after), NO_BOUNDS)
        p = stats.ttest_ind(after, before, alternative="less").pvalue
        assert (before.mean() - after.mean() > margin) == (p < 0.05)
        assert source == "seeds"


@pytest.mark.parametrize(("published", "again"), [(2, 1), (3, 3)])
def test_a_rerun_that_is_the_same_is_called_different_in_one_of_twenty_cases(
    results: Make, published: int, again: int
) -> None:
    random, cases, different = np.random.default_rng(2), 500, 0
    frames = results(*[0.0] * published), results(*[0.0] * again)
    for _ in range(cases):
        before, after = (frame.assign(value=random.normal(-25, 0.3, len(frame))) for frame in frames)
        margin, _ = explained(before, after, NO_BOUNDS)
        different += before["value"].mean() - after["value"].mean() > margin
    assert 0.03 < different / cases < 0.075  # 0.01 is one sigma


def test_one_seed_on_either_side_takes_the_images_that_both_have(results: Make, tmp_path: Path) -> None:
    before, after = np.random.default_rng(3).normal(-25, 5, (2, 100))
    after = before + after / 50
    error = np.std(after - before, ddof=1) / 10
    folders = with_bounds(tmp_path, before, after)
    margin, source = explained(results(before.mean()), results(after.mean()), folders)
    assert margin == pytest.approx(1.6449 * error, rel=1e-4)
    assert source == "images, paired"
    bits = results(-before.mean() / 7, metric="bits_per_dim")
    margin, source = explained(bits, bits, folders)
    assert margin == pytest.approx(1.6449 * error / 7, rel=1e-4)


def test_where_seeds_have_one_value_it_takes_the_images_too(results: Make) -> None:
    """Two seeds that misclassify as many images say nothing of another seed; one more wrong image is no difference."""
    published = results(7.23, 7.23, metric="test_error", standard_error=0.26)
    assert verdict(published, results(7.24, metric="test_error", standard_error=0.26)) == WITHIN
    assert verdict(published, results(9.0, metric="test_error", standard_error=0.26)) == DIFFERENT


@pytest.mark.filterwarnings("error")
def test_one_seed_and_one_image_tell_nothing_of_the_error(results: Make, tmp_path: Path) -> None:
    published, worse = results(-25.0, standard_error=math.nan), results(-25.1, standard_error=math.nan)
    folders = with_bounds(tmp_path, np.array([-25.0]), np.array([-25.1]))
    found = compare(published, worse, folders)
    assert found["verdict"].tolist() == [UNKNOWN]
    assert status(found) == 3
    assert compare(worse, published, folders)["verdict"].tolist() == [WITHIN]


def test_without_their_bounds_it_takes_the_standard_errors(results: Make) -> None:
    """0.3 and 0.4 are 0.5 together. An interval of 95% is 2 * 1.96 standard errors wide."""
    one, other = results(-25.0, standard_error=0.3), results(-25.0, standard_error=0.4)
    margin, source = explained(one, other, NO_BOUNDS)
    assert margin == pytest.approx(1.6449 * 0.5, rel=1e-4)
    assert source == "images"
    score = {"metric": "anomaly/photos/bound_above_0/auroc", "standard_error": math.nan}
    one, other = (results(0.5, low=0.5 - 1.96 * se, high=0.5 + 1.96 * se, **score) for se in (0.03, 0.04))
    assert explained(one, other, NO_BOUNDS)[0] == pytest.approx(1.6449 * 0.05, rel=1e-4)


# ------------------------------------------------------------------------------------------------------ the verdicts


@pytest.mark.parametrize(
    ("published", "again", "expected"),
    [
        ((-25.0, -25.2), (-25.0, -25.2), EQUAL),
        ((-25.0, -25.2), (-25.0,), EQUAL),
        ((-25.0, -25.2), (-25.2, -25.0), WITHIN),
        ((-25.0, -25.2), (np.nextafter(-25.0, -26), -25.2), WITHIN),
        ((-25.0, -25.2), (-20.0, -20.0), WITHIN),
        ((-25.0, -25.2), (-27.0, -27.1), DIFFERENT),
        ((-25.0, -25.2), (-25.0, -math.inf), DIFFERENT),
        ((-25.0, -25.2), (-25.0, math.nan), DIFFERENT),
        ((-25.0, math.nan), (-25.0, math.nan), EQUAL),
        ((-25.0, -25.0), (-25.0, -25.0, -25.0), WITHIN),
    ],
)
def test_a_verdict(results: Make, published: tuple[float, ...], again: tuple[float, ...], expected: str) -> None:
    assert verdict(results(*published), results(*again)) == expected


@pytest.mark.parametrize("metric", ["bits_per_dim", "test_error", "anomaly/photos/bound_above_0/fpr80"])
def test_of_some_metrics_the_lower_one_is_better(results: Make, metric: str) -> None:
    published = results(3.0, 3.1, metric=metric)
    assert verdict(published, results(4.0, 4.1, metric=metric)) == DIFFERENT
    assert verdict(published, results(2.0, 2.1, metric=metric)) == WITHIN


def test_what_was_trained_with_other_settings_is_marked(results: Make) -> None:
    published, again = results(-25.0, -25.2), results(-25.1, config_digest="0")
    assert "Trained otherwise" in report(compare(published, again, NO_BOUNDS))
    assert "Trained otherwise" not in report(compare(published, results(-25.1), NO_BOUNDS))


def test_what_is_missing_on_one_side_has_no_verdict_and_does_not_count(results: Make) -> None:
    published = pd.concat([results(-25.0), results(9.0, metric="test_error", k=pd.NA)])
    again = pd.concat([results(-25.0), results(3.0, metric="bits_per_dim")])
    found = compare(published, again, NO_BOUNDS).set_index("metric")
    assert found["verdict"].to_dict() == {
        "log_likelihood_bound": EQUAL, "test_error": NOT_RUN, "bits_per_dim": NOT_PUBLISHED,
    }  # fmt: skip
    assert found.loc["test_error", "published"] == "9.000 (1)"
    assert status(found) == 0


def test_what_describes_a_model_is_not_compared(results: Make) -> None:
    others = results(5.0, metric="kl_divergence")
    assert len(compare(pd.concat([results(-25.0), others]), results(-25.0), NO_BOUNDS)) == 1
    with pytest.raises(UserError, match="Nothing is evaluated yet"):
        compare(results(-25.0), others, NO_BOUNDS)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("column", "said"), [("data_fingerprint", "other data"), ("evaluation_digest", "other settings of the evaluation")]
)
def test_a_rerun_on_other_images_is_refused(results: Make, column: str, said: str, seed: int) -> None:
    with pytest.raises(UserError, match=f"biva/seed{seed} was run with {said} than the published one"):
        compare(results(-25.0), results(-25.0, first=seed, **{column: "0"}), NO_BOUNDS)


@pytest.mark.parametrize("other", [{"model": "vae"}, {"dataset": "omniglot"}, {"k": 5}, {"metric": "bits_per_dim"}])
def test_where_nothing_was_run_that_is_published_nothing_is_called_equal(
    results: Make, other: dict[str, object]
) -> None:
    for published in (results(-25.0), results()):
        with pytest.raises(UserError, match="Nothing that is published was run again"):
            compare(published, results(-25.0, **other), NO_BOUNDS)


def test_the_report_shows_both_values_and_counts_verdicts(results: Make) -> None:
    found = compare(results(-25.0, -25.2), results(-27.0, -27.1), NO_BOUNDS)
    text = report(found)
    # s^2 = (0.02 + 0.005) / 2, error = s, t_2 at 95% = 2.92: the margin is 0.326.
    assert re.search(r"-25\.100 \(2\) +-27\.050 \(2\) +1\.950 +0\.326 +seeds +different", text)
    assert "1 different." in text
    assert "another seed does is not known" not in text
    assert "On another processor" in text
    some = compare(results(-25.0, -25.2), results(-25.0, -25.2), NO_BOUNDS).to_dict("records")
    assert "On another processor" in report(pd.DataFrame([*some, *found.to_dict("records")]))
    text = report(compare(results(-25.0), results(-27.0), NO_BOUNDS))
    assert "seeds have no spread here, so what another seed does is not known" in text
    assert "On another processor" not in report(compare(results(-25.0), results(-25.0), NO_BOUNDS))


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which two runs of `quick` are published, with a second copy of them as the re-run."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    runs = [run for run in resolve_runs("quick", load_experiments("quick")) if run.variant in ("vae", "biva")]
    pair = AnomalyPair(name="photo_patches", normal="digits", anomalous="photo_patches", importance_samples=10)
    folders = []
    for run in runs[::2]:
        folder = fake_run(Path("results/published/quick/runs"), run, bounds={1: (-25.0, 0.1), 1000: (-24.0, 0.1)})
        write_json(folder.anomaly(pair.name), anomaly_record(pair, {"L>0": (0.75, 0.5, 1.0)}))
        folders.append(folder)
    write_results(collect(folders), Path("results/published/quick/results.csv"))
    shutil.copytree("results/published/quick", "results/quick")
    return tmp_path


def same() -> int:
    with pytest.raises(typer.Exit) as ended:
        cli.same("quick")
    return ended.value.exit_code


def change(value: float) -> None:
    """Another bound at K = 1 of the first of the runs."""
    folder = RunFolder(next(Path("results/quick/runs").rglob("run.json")).parent)
    metrics = read_json(folder.evaluation)["metrics"]
    edit(folder.evaluation, metrics=[metrics[0] | {"value": value}, *metrics[1:]])
    folders = [RunFolder(path.parent) for path in Path("results/quick/runs").rglob("run.json")]
    write_results(collect(folders), Path("results/quick/results.csv"))


def test_the_status_tells_equal_within_error_and_different(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bounds of single images are all alike in these runs, so that any worse value is different."""
    assert same() == 0
    assert "10 equal to the bit." in capsys.readouterr().out
    change(-24.75)
    assert same() == 3
    assert "9 equal to the bit, 1 within error." in capsys.readouterr().out
    change(-25.25)
    assert same() == 4
    said = capsys.readouterr().out
    assert "9 equal to the bit, 1 different." in said
    assert re.search(r"-25\.000 \(1\) +-25\.250 \(1\) +0\.250 +0\.000 +images, paired +different", said)


def test_a_set_that_was_not_run_or_not_published_is_refused(project: Path) -> None:
    shutil.rmtree("results/quick")
    with pytest.raises(UserError, match=r"results/quick/results\.csv does not exist"):
        cli.same("quick")
    with pytest.raises(UserError, match=r"Nothing is published of static_mnist\. Published: quick\."):
        cli.same("static_mnist")
