"""The workflow as jobs of a real SLURM, by `workflow/profiles/slurm`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.services import slurm, slurm_jobs
from tests.workflow.conftest import Project, small_set

pytest.importorskip("snakemake_executor_plugin_slurm")

PROFILE = ["--workflow-profile", "slurm", "--jobs", "2"]
IMPATIENT = ["--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"]
"""The profile waits 40 seconds for a job, and 60 for a file."""


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    with slurm() as variables:
        yield variables


def rules_of(jobs: list[dict[str, str]]) -> Counter[str]:
    """Rule -> jobs, by the comment that the plugin gives every job."""
    return Counter(job["comment"].split("_wildcards_")[0].removeprefix("rule_") for job in jobs)


def test_a_small_set_runs_as_jobs_two_at_a_time(project: Project, cluster: dict[str, str]) -> None:
    """With a user's own profile for the partitions; the jobs of the GPU partition, and no others, ask for a GPU."""
    project.edit("config/experiments/quick.yaml", small_set(device="auto", figures=[]))
    own = project.path / "own-profile" / "config.yaml"
    own.parent.mkdir()
    own.write_text(
        "default-resources: {slurm_partition: cpu}\n"
        "set-resources: {train: {slurm_partition: gpu}, evaluate: {slurm_partition: gpu}}\n"
    )
    done = project.snakemake("--profile", str(own.parent), *PROFILE, *IMPATIENT, **cluster)
    assert done.returncode == 0, done.stdout

    jobs = slurm_jobs(cluster)
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    assert rules_of(jobs) == {"prepare": 1, "train": 2, "evaluate": 2}
    asked = {(job["partition"], job["gpus"], job["memory"]) for job in jobs}
    assert asked == {("cpu", "N/A", "4000M"), ("gpu", "gres:gpu:1", "8000M")}
    results = project.path / "results" / "quick"
    assert "VAE" in (results / "tables" / "likelihood.tex").read_text()
    assert len((results / "tracked.txt").read_text().splitlines()) == 2


@pytest.mark.scale
def test_quick_runs_as_jobs_two_at_a_time(project: Project, cluster: dict[str, str]) -> None:
    done = project.snakemake(*PROFILE, *IMPATIENT, **cluster)
    assert done.returncode == 0, done.stdout
    jobs = slurm_jobs(cluster)
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    assert rules_of(jobs) == {"prepare": 2, "train": 18, "evaluate": 18, "detect": 8}
    for table in ("likelihood", "labels_50"):
        assert "BIVA" in (project.path / "results" / "quick" / "tables" / f"{table}.tex").read_text()
