"""What the user's shell says does not reach results, and records say which code and processor made them."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

from biva import origin
from biva.environment import IGNORED, LAUNCHED, RECORDED, settle

ROOT = Path(__file__).parents[2]
TOGETHER = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
"""What torchrun sets for the second of two processes."""


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, *arguments]
    return subprocess.run(call, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)


# --------------------------------------------------------------------------------------------------------- variables


@pytest.mark.parametrize(
    ("variables", "kept", "said"),
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, {}, "ignored"),
        ({"PYTHONWARNINGS": "error", "PYTHONINSPECT": "1"}, {}, "PYTHONINSPECT, PYTHONWARNINGS"),
        ({"NVIDIA_TF32_OVERRIDE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, {}, "NVIDIA_TF32_OVERRIDE, ONEDNN_"),
        ({"OMP_DYNAMIC": "TRUE", "OMP_THREAD_LIMIT": "1"}, {}, "OMP_DYNAMIC, OMP_THREAD_LIMIT"),
        ({"TORCHDYNAMO_DISABLE": "1", "TORCH_COMPILE_DISABLE": "1"}, {}, "TORCHDYNAMO_DISABLE, TORCH_COMPILE_DISABLE"),
        ({"TORCHINDUCTOR_USE_FAST_MATH": "1", "TORCHINDUCTOR_CACHE_DIR": "/c"}, {"TORCHINDUCTOR_CACHE_DIR"}, "FAST"),
        ({"MLFLOW_ENABLE_ASYNC_LOGGING": "true", "MLFLOW_TRACKING_URI": "http://a"}, {"MLFLOW_TRACKING_URI"}, "ASYNC"),
        ({"MLFLOW_ACTIVE_MODEL_ID": "m", "_MLFLOW_ACTIVE_MODEL_ID": "m"}, {}, "MLFLOW_ACTIVE_MODEL_ID, _MLFLOW_"),
        ({"OMP_NUM_THREADS": "3", "SLURM_MEM_PER_NODE": "0"}, {"OMP_NUM_THREADS", "SLURM_MEM_PER_NODE"}, ""),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {}, "warning: RANK, WORLD_SIZE ignored"),
        ({"LOCAL_RANK": "0"}, {}, "warning: LOCAL_RANK ignored"),
        (TOGETHER, {*TOGETHER}, ""),
        (TOGETHER | {"MASTER_PORT": ""}, {"MASTER_ADDR", "MASTER_PORT"}, "LOCAL_RANK, RANK, WORLD_SIZE ignored"),
        (TOGETHER | {"RANK": "2"}, {"MASTER_ADDR", "MASTER_PORT"}, "it works alone"),
        (TOGETHER | {"WORLD_SIZE": "two"}, {"MASTER_ADDR", "MASTER_PORT"}, "it works alone"),
    ],
)
def test_what_would_change_results_is_ignored_and_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    kept: set[str],
    said: str,
) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settle()
    assert os.environ.keys() & variables.keys() == {*kept}
    printed = capsys.readouterr().err
    assert said in printed if said else not printed


def test_matplotlib_loads_whatever_the_user_has_for_it_and_a_remark_ends_nothing(tmp_path: Path) -> None:
    code = "from biva.environment import settle; settle(); import matplotlib, warnings; warnings.warn('a remark')"
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xff")
    look = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    done = python("-c", code, PYTHONWARNINGS="error", **look)
    assert done.returncode == 0, done.stderr
    assert "UserWarning: a remark" in done.stderr


def test_what_a_terminal_cannot_show_ends_nothing() -> None:
    done = python("-c", "from biva.environment import settle; settle(); print('1 ± 2')", PYTHONIOENCODING="ascii")
    assert (done.stdout, done.returncode) == ("1 \\xb1 2\n", 0), done.stderr


def test_make_installs_into_its_own_folder() -> None:
    """Whatever pip and Python would make of the user's variables."""
    variables = dict.fromkeys(("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PYTHONHOME"), "/elsewhere")
    call, rules = ["make", "--silent", "--file", "-", "show"], "include Makefile\nshow:\n\t@env\n"
    done = subprocess.run(call, cwd=ROOT, env=os.environ | variables, input=rules, capture_output=True, text=True)
    assert "MLFLOW_DISABLE_TELEMETRY=true" in done.stdout
    assert "/elsewhere" not in done.stdout


def test_python_without_docstrings_is_refused() -> None:
    """Captions of figures are docstrings."""
    done = python("-m", "biva", "describe", "digits_8x8", PYTHONOPTIMIZE="2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Python runs with PYTHONOPTIMIZE=2")


def test_a_user_id_without_a_name_is_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers; Snakemake and torch ask for the name."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    settle()
    assert getpass.getuser() == str(os.getuid())


def test_the_reference_names_every_variable_that_is_read_ignored_or_recorded() -> None:
    section = (ROOT / "docs/reference.md").read_text().split("## Environment variables\n")[1].split("\n## ")[0]
    rows = [row.split("|") for row in section.splitlines() if row.startswith("| `")]
    decided = {name: row[2].strip() for row in rows for name in re.findall(r"`([A-Z0-9_*]+)`", row[1])}
    assert {decided.get(name) for name in IGNORED} == {"ignored"}
    assert {decided.get(name) for name in RECORDED} == {"obeyed, recorded"}
    code = [
        path for folder in ("biva", "workflow") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".smk")
    ]
    read = {name for path in code for name in re.findall(r'environ(?:\.\w+\(|\[)"(\w+)"', path.read_text())}
    assert {"BIVA_COMMIT", "MLFLOW_TRACKING_URI"} <= read
    assert not [name for name in {*read, *LAUNCHED} if not any(fnmatchcase(name, known) for known in decided)]


# ------------------------------------------------------------------------------------------------------------ origin


def git(folder: Path, *arguments: str) -> str:
    """What git says in a folder, whatever this test's variables are."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    call = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(
        call, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    ).stdout.strip()


def repository(folder: Path, *tracked: str) -> str:
    """A git repository with a commit of these files; the commit."""
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    git(folder, "init")
    git(folder, "add", *tracked)
    git(folder, "commit", "--message", "all")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the code pretends to be: a file that is not there yet."""
    place = tmp_path / "project" / "biva" / "origin.py"
    monkeypatch.setattr(origin, "__file__", str(place))
    monkeypatch.setenv("BIVA_COMMIT", "told")
    place.parent.mkdir(parents=True)
    return place


def test_the_commit_is_that_of_the_repository_that_tracks_the_code(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_code = ("results/published/quick/results.csv", "docs/small.md", "tests/conftest.py")
    own = repository(code.parents[1], "biva/origin.py", *no_code)
    other = repository(tmp_path / "other", "biva/origin.py", "more")
    assert own != other
    for name, value in {"GIT_DIR": ".git", "GIT_WORK_TREE": "", "GIT_CEILING_DIRECTORIES": "project/biva"}.items():
        monkeypatch.setenv(name, str(tmp_path / "other" / value))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nothing"))
    assert origin.commit.__wrapped__() == own
    for name in no_code:
        (code.parents[1] / name).write_text("edited")
    assert origin.commit.__wrapped__() == own
    assert not capsys.readouterr().err
    code.write_text("edited")
    assert origin.commit.__wrapped__() == f"{own}-dirty"
    assert "in no commit, and `biva publish` refuses such: biva/origin.py. Commit first." in capsys.readouterr().err


def test_a_repository_around_a_copy_is_not_that_of_the_code(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository(tmp_path, "others.py")
    code.write_text("a copy that nobody added")
    assert origin.commit.__wrapped__() == "told"
    assert not capsys.readouterr().err
    monkeypatch.setenv("BIVA_COMMIT", "")
    assert origin.commit.__wrapped__() == "unknown"
    assert f"{code.parent}: the repository around it does not track it" in capsys.readouterr().err


def test_the_commit_of_an_installed_package_is_the_one_that_pip_notes(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By PEP 610; an installation of a folder or a wheel has none."""
    monkeypatch.delenv("BIVA_COMMIT")
    note = code.parents[1] / "biva-0.1.0.dist-info" / "direct_url.json"
    note.parent.mkdir()
    note.write_text('{"url": "file:///wheel", "archive_info": {}}')
    assert origin.commit.__wrapped__() == "unknown"
    note.write_text('{"url": "https://example.org", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}}')
    assert origin.commit.__wrapped__() == "0123abc"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "printf 'fatal: detected dubious ownership\\n\\n\\tgit config --add safe.directory x\\n' >&2; exit 128",
            "fatal: detected dubious ownership git config --add safe.directory x. Do what git advises, or set BIVA_",
        ),
        ("printf 'ung\\374ltig' >&2; exit 128", "ung\ufffdltig. Do"),
        (None, "No such file or directory: git"),
    ],
)
def test_why_a_commit_is_unknown_is_said(
    code: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str | None,
    said: str,
) -> None:
    if script:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BIVA_COMMIT")
    assert origin.commit.__wrapped__() == "unknown"
    assert said in capsys.readouterr().err


def test_a_record_names_what_of_the_processor_changes_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "ONEDNN", "TORCH_HOME"):
        monkeypatch.setenv(name, "AVX2")
    hardware = origin.made_by("2 x cpu")["hardware"]
    flags = Path("/proc/cpuinfo").read_text()
    assert f"model name\t: {hardware['processor']}\n" in flags
    assert hardware["instruction_set"].lower().replace("avx512", "avx512f") in flags
    assert re.match(r"oneDNN \d+\.\d" if torch.backends.mkldnn.is_available() else "torch", hardware["convolutions"])
    assert ("ONEDNN_MAX_CPU_ISA", "AVX2") in hardware["variables"].items()
    assert not {"ONEDNN", "TORCH_HOME"} & hardware["variables"].keys()
