"""docs/tutorial.md, followed in a copy of the project; its first experiment is shorter, its second one is planned."""

from __future__ import annotations

import subprocess

from tests.docs import ROOT, blocks, commands
from tests.workflow.conftest import Project

TUTORIAL = ROOT / "docs" / "tutorial.md"


def test_the_tutorial_leads_to_a_changed_experiment(project: Project) -> None:
    (example,) = [block for block in blocks(TUTORIAL) if block.info.startswith("file=")]
    first = project.path / example.info.removeprefix("file=")
    first.write_text(example.text.replace("max_updates: 1040", "max_updates: 8").replace("every: 104", "every: 4"))
    for command in commands(TUTORIAL):
        if command.words[0] == "snakemake":
            dry = ["--dry-run"] if "no_free_bits" in command.text else []
            done = project.snakemake(*command.words[1:], *dry, BIVA_COMMIT="0" * 40)
            assert done.returncode == 0, done.stdout
        elif command.words[:2] == ["biva", "verify"]:
            done = project.biva(*command.words[1:])
            assert done.returncode == 0, done.stdout
        elif command.words[0] == "sed":
            subprocess.run(["sh", "-c", command.text], cwd=project.path, check=True)
    for name in ("tables/likelihood.html", "figures/learning_curves.png", "figures/kl_per_layer.png", "summary.tex"):
        assert (project.path / "results/first" / name).is_file()
    changed = (project.path / "config/experiments/no_free_bits.yaml").read_text().splitlines()
    lines = zip(first.read_text().splitlines(), changed, strict=True)
    assert [new.split(":")[0].strip() for old, new in lines if old != new] == ["description", "free_bits"]
