"""`snakemake published` makes tables and figures of the records in results/published, and of nothing else."""

from __future__ import annotations

from pathlib import Path

from biva.config import load_experiments, resolve_runs
from tests.fake_runs import fake_run
from tests.workflow.conftest import ROOT, Project

BOUNDS = {1: (-25.0, 0.5), 1000: (-24.0, 0.25)}


def test_published_sets_are_rebuilt_every_time_without_training(project: Project) -> None:
    folder = project.path / "results/published/quick"
    runs = resolve_runs("quick", load_experiments("quick", ROOT / "config"), ROOT / "config")
    vae = next(run for run in runs if run.variant == "vae")
    fake_run(folder / "runs", vae, bounds=BOUNDS).arrays.unlink()
    records = files_below(folder)
    done = project.snakemake("--cores", "1", "published")
    assert done.returncode == 0, done.stdout
    made = files_below(folder) - records
    assert {"results.csv", "tables/likelihood.tex", "anomalies/photo_patches.tex", "index.html"} < made
    assert {"figures/learning_curves.pdf", "figures/kl_per_layer.png"} < made
    assert not any("samples" in name or "runs" in name for name in made)
    assert "$-$24.00" in (folder / "tables/likelihood.tex").read_text()
    others = {name for name in files_below(project.path / "results") if not name.startswith("published/quick/")}
    assert others == {"logs/published.log"}
    assert project.planned("published") == {"published": 1}


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
