"""The profiles beside the default one. SLURM itself: test_slurm.py."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.workflow.conftest import ROOT, Project

PROFILES = ROOT / "workflow" / "profiles"
DOCUMENTED = re.findall(
    r"^(?:CUDA_\S+ )?snakemake (.*?) +# needs .*GPUs$", (ROOT / "docs/cluster.md").read_text(), re.MULTILINE
)


def profile(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((PROFILES / name / "config.yaml").read_text())
    return content


@pytest.mark.parametrize("name", sorted({path.name for path in PROFILES.iterdir()} - {"default"}))
def test_every_profile_keeps_what_the_default_one_sets_but_its_one_gpu(name: str) -> None:
    """Snakemake reads one workflow profile, so the others repeat the default one."""
    common = {key: value for key, value in profile("default").items() if key != "resources"}
    assert profile(name).items() >= common.items()


@pytest.mark.parametrize(("visible", "gpus"), [("0,1,2", 3), ("5", 1)])
def test_local_gpus_counts_the_gpus_that_cuda_may_use(project: Project, visible: str, gpus: int) -> None:
    arguments = ["--workflow-profile", "local-gpus", "resources/digits/fetched.txt"]
    done = project.snakemake(*arguments, CUDA_VISIBLE_DEVICES=visible)
    assert done.returncode == 0, done.stdout
    assert re.search(rf"^Provided resources: gpu=.*\b{gpus}\b", done.stdout, re.MULTILINE)


def test_the_documented_commands_plan_their_jobs(project: Project) -> None:
    """As far as they go without GPUs and a cluster."""
    own = project.path / "mycluster" / "config.yaml"
    own.parent.mkdir()
    own.write_text(re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)[0])
    assert len(DOCUMENTED) == 4
    for command in DOCUMENTED:
        assert project.planned(*command.split())["train"] >= 4
