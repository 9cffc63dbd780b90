"""A really trained, tiny set: `biva verify` passes on it as it is, and finds every single thing that was changed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from biva import cli, origin, publishing, records
from biva.errors import UserError
from biva.records import RunFolder, read_json, write_json
from biva.tracking import follow_move
from biva.verification import Verification, verify
from biva.weights import with_records
from tests.fake_runs import cut_record, edit

pytest.importorskip("mlflow")

ROOT = Path(__file__).parents[2]
SET = "tiny"
RUNS = [f"digits/digits_8x8/{variant}/seed{seed}" for variant in ("vae", "vae_finetuned") for seed in (1, 2)]
FOLDER = Path("results", SET)
TRAINING = {"protocol": "clean", "batch_size": 32, "max_updates": 4, "evaluate_every": 2, "selection_images": 32}
SETTINGS = {
    "description": "four short runs",
    "device": "cpu",
    "threads": 1,
    "runs": [{"dataset": "digits", "architecture": "digits_8x8", "model": "vae", "seeds": [1, 2]}],
    "training": TRAINING,
    "finetuning": {"models": ["vae"], "training": TRAINING | {"free_bits": 0.0}},
    "evaluation": {"importance_samples": [1, 3], "max_images": 20},
    "anomalies": [
        {"name": "photos", "normal": "digits", "anomalous": "photo_patches", "importance_samples": 2, "max_images": 20}
    ],
    "tables": [{"name": "likelihood", "dataset": "digits", "k": [1, 3]}],
    "figures": ["learning_curves"],
}


def run(number: int) -> RunFolder:
    return RunFolder(FOLDER / "runs" / RUNS[number])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project folder in which every verb has run, at a clean commit."""
    project = tmp_path_factory.mktemp("made")
    (project / "config" / "experiments").mkdir(parents=True)
    for name in ("architectures", "config.yaml", "datasets.yaml", "paper_results.csv"):
        (project / "config" / name).symlink_to(ROOT / "config" / name)
    (project / "config" / "experiments" / f"{SET}.yaml").write_text(yaml.safe_dump(SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("BIVA_DATA_MIRROR", raising=False)
        patch.setattr(origin, "commit", lambda: "0123abc")
        patch.setattr(
            sys.modules["biva.tracking.mirror"], "_log_figures", lambda *_: None
        )  # those of single runs take longest
        for dataset in ("digits", "photo_patches"):
            cli.fetch(dataset)
            cli.prepare(dataset)
        for name in RUNS:
            cli.train(SET, name)
            cli.evaluate(SET, name)
            cli.detect(SET, name, "photos")
        cli.collect(SET)
        cli.table(SET, "likelihood")
        cli.figure(SET, "learning_curves")
        cli.anomalies(SET, "photos")
        cli.summary(SET)
        cli.track([FOLDER / "runs" / name for name in RUNS])
        yield project


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder, symlinks=True)
    monkeypatch.chdir(folder)
    follow_move()
    return folder


def findings() -> list[str]:
    return verify(SET, FOLDER, Path("resources")).findings


def test_the_untouched_set_passes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.verify(SET)
    cli.verify(str(FOLDER))
    assert capsys.readouterr().out == "results/tiny: 4 of 4 planned runs are there, and all agrees.\n" * 2


def change_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change_number_in_evaluation() -> None:
    record = read_json(run(0).evaluation)
    record["metrics"][1]["value"] += 0.5
    write_json(run(0).evaluation, record)


def change_number_in_anomaly() -> None:
    path = run(0).anomaly("photos")
    record = read_json(path)
    record["scores"]["L>0"]["auroc"]["value"] = 0.99
    write_json(path, record)


def change_number_in_csv() -> None:
    path = FOLDER / "results.csv"
    value = str(read_json(run(1).evaluation)["metrics"][0]["value"])
    change_text(path, value, "-1.25")


def change_number_in_record() -> None:
    lines = run(0).record.read_text().splitlines()
    line = json.loads(lines[0])
    line["selection"]["elbo"] = -1.0
    run(0).record.write_text("\n".join([json.dumps(line, sort_keys=True), *lines[1:], ""]))


def swap_data() -> None:
    path = Path("resources/digits/data.safetensors")
    arrays = load_file(path)
    arrays["test/images"] = arrays["test/images"][::-1].copy()
    save_file(arrays, path)


def swap_data_and_description() -> None:
    swap_data()
    edit(Path("resources/digits/data.json"), fingerprint=records.sha256(Path("resources/digits/data.safetensors")))


def swap_raw_file() -> None:
    path = next(path for path in Path("resources/digits/raw").iterdir() if path.is_file())
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def copy_other_seed() -> None:
    shutil.rmtree(run(1).path)
    shutil.copytree(run(0).path, run(1).path)


def evaluated(folder: RunFolder) -> tuple[Path, ...]:
    return folder.evaluation, folder.bounds, folder.arrays


def copy_evaluation_of_other_seed() -> None:
    for path, other in zip(evaluated(run(1)), evaluated(run(0)), strict=True):
        shutil.copy(other, path)


def seal_evaluation_of_other_seed() -> None:
    """The manifest is made to agree; weights, seed, results and MLflow still do not."""
    copy_evaluation_of_other_seed()
    records.seal(run(1), evaluated(run(1)))


def swap_weights() -> None:
    shutil.copy(run(1).weights, run(0).weights)


def swap_and_seal_parents_weights() -> None:
    swap_weights()
    records.seal(run(0), (run(0).weights,))


def edit_config() -> None:
    config = read_json(run(0).identity)["config"]
    config["training"]["learning_rate"] = 0.5
    edit(run(0).identity, config=config)


def edit_set(**changes: Any) -> None:
    Path("config/experiments", f"{SET}.yaml").write_text(yaml.safe_dump(SETTINGS | changes))


def in_mlflow(statement: str) -> Callable[[], None]:
    def change() -> None:
        with sqlite3.connect("results/mlflow/mlflow.db") as database:
            assert database.execute(statement).rowcount > 0

    return change


def seal_edited_number() -> None:
    """Records, manifest, results and tables are made to agree; MLflow's copy still does not."""
    change_number_in_record()
    record = [json.loads(line) for line in run(0).record.read_text().splitlines()]
    assert record[0]["selection"]["elbo"] == -1.0
    records.seal(run(0), (run(0).record,))
    cli.collect(SET)
    cli.table(SET, "likelihood")


TAMPERINGS: dict[str, tuple[Callable[[], Any], *tuple[str, ...]]] = {
    "number in evaluation.json": (
        change_number_in_evaluation,
        "evaluation.json was changed after",
        "K=3 is not the mean of those in",
    ),
    "number in anomaly/photos.json": (change_number_in_anomaly, "L>0 do not follow from photos.safetensors"),
    "number in results.csv": (change_number_in_csv, "results.csv is not what the records of the runs give; line"),
    **{
        f"number in {name}": (partial(change_text, FOLDER / name, old, new), f"{name} is not what the records of the")
        for name, old, new in (
            ("tables/likelihood.tex", r"$\pm$", r"$\pm$1"),
            ("anomalies/photos.tex", r"$\pm$0", r"$\pm$1"),
            ("tables/likelihood.html", "±", "±1"),
            ("index.html", "±", "±1"),
        )
    },
    "number in record.jsonl": (change_number_in_record, "record.jsonl was changed after"),
    "truncated record.jsonl": (lambda: cut_record(run(2), 1), "record.jsonl ends at update 2, but train.json at 4"),
    "data": (swap_data, "data.safetensors is not the file that data.json describes"),
    "data and their description": (swap_data_and_description, "was read by results/tiny/runs/digits/digits_8x8/vae"),
    "raw file": (swap_raw_file, "is not the published file; `biva fetch digits`"),
    "other seed's run": (copy_other_seed, "vae/seed1 hold the records of one run"),
    "other seed's evaluation": (copy_evaluation_of_other_seed, "seed2/evaluation.json is of other weights"),
    "other seed's evaluation, sealed": (seal_evaluation_of_other_seed, "is of another seed than the run's"),
    "dirty commit": (lambda: edit(run(3).identity, commit="0123abc-dirty"), "in no commit (0123abc-dirty)"),
    "missing weights": (run(0).weights.unlink, "weights.safetensors is missing"),
    "missing evaluation": (run(0).evaluation.unlink, "evaluation.json is missing"),
    "missing run": (lambda: shutil.rmtree(run(3).path), "results.csv is not what the records of the runs give"),
    "missing figure": ((FOLDER / "figures/learning_curves.pdf").unlink, "learning_curves.pdf is missing"),
    "changed figure": (
        lambda: shutil.copy(FOLDER / "anomalies/photos.png", FOLDER / "figures/learning_curves.png"),
        "learning_curves.png is not the one that MLflow has",
    ),
    "parent's weights, sealed": (swap_and_seal_parents_weights, "it started from other weights than those in"),
    "config in run.json": (edit_config, "its settings have the digest"),
    "config of the set": (
        lambda: edit_set(training=TRAINING | {"batch_size": 16}),
        "trained with settings other than the present ones",
    ),
    "evaluation of the set": (
        lambda: edit_set(evaluation={"importance_samples": [1, 3], "max_images": 19}),
        "evaluated with settings other than the present ones",
    ),
    "missing summary": ((FOLDER / "summary.tex").unlink, "summary.tex is missing"),
    "ends of lines": (
        lambda: (FOLDER / "results.csv").write_bytes((FOLDER / "results.csv").read_bytes().replace(b"\n", b"\r\n")),
        "results.csv is not what the records of the runs give: its lines end otherwise",
    ),
    "missing manifest": (run(0).manifest.unlink, "manifest.json does not exist"),
    "empty manifest": (
        lambda: run(0).manifest.write_text("{}"),
        "seed1/manifest.json lacks the field 'files', as after an edit or from another version of biva. Restore it",
    ),
    "damaged JSON": (lambda: run(0).identity.write_text("{}"), "run.json was changed after"),
    "edited number, sealed and collected": (seal_edited_number, "MLflow has another record.jsonl"),
    "metric in MLflow": (
        in_mlflow("UPDATE latest_metrics SET value = -1 WHERE key = 'test/log_likelihood_bound_k3'"),
        "MLflow has -1.0 as the metric test/log_likelihood_bound_k3",
    ),
    "point in MLflow": (
        in_mlflow("UPDATE metrics SET value = -1 WHERE key = 'selection/elbo' AND step = 2"),
        "MLflow has other points of the metric selection/elbo",
    ),
    "tag in MLflow": (
        in_mlflow("UPDATE tags SET value = 'x' WHERE key = 'commit'"),
        "MLflow has the tag commit x, the disk 0123abc",
    ),
    "run deleted in MLflow": (in_mlflow("DELETE FROM tags WHERE key = 'biva.run_id'"), "MLflow has no finished run"),
    "MLflow's store": (lambda: shutil.rmtree("results/mlflow"), "has no experiment 'tiny'"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampering_is_found(name: str, project: Path) -> None:
    tamper, *said = TAMPERINGS[name]
    tamper()
    found = "\n".join(findings())
    assert [words for words in said if words not in found] == []


def test_a_copy_of_the_project_says_where_mlflow_would_write_until_track_has_corrected_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    (finding,) = findings()
    for said in (made, tmp_path / "copy"):
        assert str(said / "results/mlflow/artifacts" / SET) in finding
    assert "`biva track RUN_DIR ...`" in finding
    cli.track([FOLDER / "runs" / RUNS[0]])
    assert findings() == []


def test_what_others_leave_beside_our_files_is_no_finding_and_is_not_published(project: Path) -> None:
    for folder in [Path("resources/digits/raw"), Path("resources/digits"), FOLDER, *FOLDER.glob("*/"), run(0).path]:
        for name in (".DS_Store", "._weights.safetensors", "a (1).json", "x.safetensors~", ".nfs01", "Thumbs.db"):
            (folder / name).write_bytes(b"\0\5\26\7")
    shutil.copy(run(0).anomaly("photos"), run(0).path / "anomaly" / "photos (conflicted copy).json")
    shutil.copytree(FOLDER, "results/published/tiny (copy)")
    before = (FOLDER / "results.csv").read_bytes()
    cli.collect(SET)
    assert (FOLDER / "results.csv").read_bytes() == before
    assert findings() == []
    cli.publish(SET)
    cli.rebuild()
    assert {path.name for path in PUBLISHED.rglob("*") if path.is_file()} == {
        *("results.csv", "likelihood.tex", "likelihood.html", "likelihood.json", "photos.tex", "photos.html"),
        *("photos.json", "learning_curves.pdf", "learning_curves.png", "run.json", "record.jsonl", "train.json"),
        *("evaluation.json", "bounds.safetensors", "manifest.json", "weights.safetensors", "README.md"),
        *("index.html", "mlflow.json", "ro-crate-metadata.json", "Snakefile"),
        *(path.name for path in (ROOT / "workflow/rules").glob("*.smk")),
    }


def test_what_a_set_made_once_and_makes_no_more_is_no_finding(project: Path) -> None:
    """MLflow keeps all that was ever logged, also of a table that has another name now."""
    (FOLDER / "tables/earlier.tex").touch()
    cli.track([run(0).path])
    (FOLDER / "tables/earlier.tex").unlink()
    assert findings() == []


def test_no_torch_is_needed_from_the_records_on(project: Path) -> None:
    verbs = [
        ["collect", SET],
        ["collect", SET, "--from-mlflow"],
        ["table", SET, "likelihood"],
        ["figure", SET, "learning_curves"],
        ["anomalies", SET, "photos"],
        ["summary", SET],
        ["verify", SET],
        ["publish", SET],
        ["rebuild", SET],
    ]
    script = f"""
import sys
class NoTorch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch)
from biva.cli import app
for verb in {verbs!r}:
    app(verb, standalone_mode=False)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_set_that_does_not_verify_is_listed_with_status_1_and_not_published(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swap_weights()
    said = "- results/tiny/runs/digits/digits_8x8/vae/seed1/weights.safetensors was changed after"
    with pytest.raises(UserError, match=r"results/tiny: \d+ things do not agree"):
        cli.verify(SET)
    assert said in capsys.readouterr().out
    with pytest.raises(UserError, match=f"does not verify, so nothing was published:\n{re.escape(said)}"):
        cli.publish(SET)
    assert not PUBLISHED.exists()


def test_data_that_are_not_here_are_not_compared(project: Path) -> None:
    shutil.rmtree("resources")
    assert findings() == []


# ------------------------------------------------------------------------------------------------------ publishing

PUBLISHED = Path("results/published", SET)
TEXTS = ("results.csv", "tables/likelihood.tex", "anomalies/photos.tex")


@pytest.fixture(scope="module")
def published_once(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the set published, and nothing else left: no runs, data or MLflow."""
    folder = tmp_path_factory.mktemp("published") / "project"
    shutil.copytree(made, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        follow_move()
        texts = {name: (FOLDER / name).read_bytes() for name in TEXTS}
        cli.publish(SET)
        assert {name: (PUBLISHED / name).read_bytes() for name in TEXTS} == texts
        assert verify(SET, PUBLISHED, Path("resources")).findings == []
        for other in (FOLDER, Path("results/mlflow"), Path("resources")):
            shutil.rmtree(other)
    return folder


@pytest.fixture
def published(published_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy."""
    shutil.copytree(published_once, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_published_runs_are_their_records_and_of_one_seed_the_weights(published: Path) -> None:
    names = {"anomaly/photos.json", "bounds.safetensors", "evaluation.json", "manifest.json", "record.jsonl"}
    names |= {"mlflow.json", "run.json", "train.json"}
    for run, more in zip(RUNS, [{"weights.safetensors", "README.md"}, set()] * 2, strict=True):
        folder = PUBLISHED / "runs" / run
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {path.relative_to(folder).as_posix() for path in files} == names | more
        assert sum(path.stat().st_size for path in files if path.name != "weights.safetensors") < 25_000


def test_the_weights_of_a_higher_seed_that_were_published_before_go(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.publish(SET)
    elsewhere = RunFolder(PUBLISHED / "runs" / RUNS[1])
    elsewhere.weights.write_bytes(with_records(run(1)))
    elsewhere.card.touch()
    for number in (1, 3):
        shutil.rmtree(run(number).path)
    monkeypatch.setattr(publishing, "verify", lambda *_: Verification([], 1, 1))
    cli.publish(SET)
    assert {path.parent for path in PUBLISHED.rglob("weights.safetensors")} == {
        PUBLISHED / "runs" / RUNS[number] for number in (0, 2)
    }
    assert elsewhere.evaluation.is_file()
    assert not elsewhere.card.exists()


def test_weights_that_are_too_large_for_git_are_not_published(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "LARGEST_WEIGHTS", run(0).weights.stat().st_size - 1)
    cli.publish(SET)
    assert not list(PUBLISHED.rglob("weights.safetensors"))
    assert verify(SET, PUBLISHED, Path("resources")).findings == []


def test_published_numbers_are_repeated_from_the_weights(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.publish(SET)
    shutil.rmtree(FOLDER)
    before = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
    capsys.readouterr()
    cli.repeat(PUBLISHED / "runs" / RUNS[0] / "weights.safetensors")
    *rows, expectation = capsys.readouterr().out.splitlines()
    assert [row.split()[-1] for row in rows[1:]] == ["0.0e+00"] * 5
    assert "expect no difference" in expectation
    assert {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()} == before


def test_tables_and_figures_are_rebuilt_from_published_records_alone(published: Path) -> None:
    made = [*TEXTS, "figures/learning_curves.pdf", "figures/learning_curves.png", f"runs/{RUNS[0]}/README.md"]
    made += ["ro-crate-metadata.json", "workflow/Snakefile"]
    contents = [(PUBLISHED / name).read_bytes() for name in made]
    for name in made:
        (PUBLISHED / name).unlink()
    renamed = PUBLISHED / "tables/earlier_name.html"
    renamed.write_text("0.83")
    cli.rebuild()
    assert not renamed.exists()
    assert [(PUBLISHED / name).read_bytes() for name in made] == contents


def swap_published_weights(*, tensors: bool) -> None:
    """Exchange the tensors, or all else, of two published files."""
    one, other = (PUBLISHED / "runs" / RUNS[number] / "weights.safetensors" for number in (0, 2))
    source, header = (other, one) if tensors else (one, other)
    with safe_open(header, "numpy") as file:
        save_file(load_file(source), one, file.metadata())


ONE = RunFolder(PUBLISHED / "runs" / RUNS[0])


def forget_weights() -> None:
    ONE.weights.unlink()
    ONE.card.unlink()


def forget_parameters() -> None:
    identity = read_json(ONE.identity)
    del identity["parameters"]
    write_json(ONE.identity, identity)


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (partial(change_text, PUBLISHED / "results.csv", "nats", "bits"), "results.csv is not what the records"),
        (partial(edit, ONE.evaluation, images=19), "was changed after"),
        (ONE.record.unlink, "record.jsonl is missing"),
        (ONE.bounds.unlink, "bounds.safetensors is missing"),
        (partial(cut_record, ONE, 1), "ends at update 2, but train.json at 4"),
        (partial(swap_published_weights, tensors=True), "weights.safetensors was changed after the run had written it"),
        (partial(swap_published_weights, tensors=False), "has other records in its header than those beside it"),
        (partial(change_text, ONE.card, "4 updates", "40 updates"), "README.md is not what the records give; `biva re"),
        (
            lambda: ONE.weights.write_bytes(ONE.weights.read_bytes()[:-1]),
            "weights.safetensors, or a record that it needs",
        ),
        (forget_weights, "seed1/weights.safetensors is not as ro-crate-metadata.json"),
        (forget_parameters, "run.json lacks the field 'parameters'"),
        (
            partial(change_text, PUBLISHED / "ro-crate-metadata.json", "4 updates", "40 updates"),
            "ro-crate-metadata.json is not what the records give;",
        ),
        *(
            (change, f"{PUBLISHED / name} is not as ro-crate-metadata.json has it")
            for name, change in {
                "workflow/Snakefile": partial(change_text, PUBLISHED / "workflow/Snakefile", "BIVA", "biva"),
                "workflow/rules/data.smk": (PUBLISHED / "workflow/rules/data.smk").unlink,
                "tables/other.tex": (PUBLISHED / "tables/other.tex").touch,
            }.items()
        ),
    ],
)
def test_published_results_are_verified_too(published: Path, tamper: Callable[[], Any], said: str) -> None:
    tamper()
    assert said in "\n".join(verify(SET, PUBLISHED, Path("resources")).findings)


def test_a_copy_that_fails_leaves_what_was_published(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.publish(SET)
    before = {path: path.read_bytes() for path in PUBLISHED.rglob("*") if path.is_file()}
    copy = shutil.copyfile

    def fill_the_disk(source: Path, place: Path, **options: Any) -> Path:
        if Path(place).name == "train.json" and PUBLISHED in Path(place).parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
        return copy(source, place, **options)

    monkeypatch.setattr(shutil, "copyfile", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        cli.publish(SET)
    assert {path: path.read_bytes() for path in PUBLISHED.rglob("*") if path.is_file()} == before


def test_the_run_that_a_published_one_goes_on_from_is_published_with_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is not evaluated, as while a set is running."""
    for path in evaluated(run(0)):
        path.unlink()
    shutil.rmtree(run(0).path / "anomaly")
    files = read_json(run(0).manifest)["files"]
    edit(run(0).manifest, files={name: digest for name, digest in files.items() if (run(0).path / name).is_file()})
    monkeypatch.setattr(publishing, "verify", lambda *_: Verification([], 4, 4))  # tables and MLflow know more
    cli.publish(SET)
    assert {path.name for path in (PUBLISHED / "runs" / RUNS[0]).iterdir()} == {
        *("run.json", "record.jsonl", "train.json", "manifest.json", "mlflow.json")
    }
    assert verify(SET, PUBLISHED, Path("resources")).findings == []


def test_runs_that_were_published_elsewhere_stay(project: Path) -> None:
    other = PUBLISHED / "runs" / "digits/digits_8x8/vae/seed9/run.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    cli.publish(SET)
    assert other.read_text() == "{}"
