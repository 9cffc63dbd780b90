"""The command line: help with examples that work, and mistakes told without a traceback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from biva.cli import app
from tests.commands import assert_names_exist, assert_parsed

ROOT = Path(__file__).parents[2]
VERBS = (
    *("describe", "check", "bench", "plan", "data", "fetch", "prepare", "train", "evaluate", "detect", "track"),
    *("collect", "table", "figure", "anomalies", "summary", "schema"),
    *("compare", "verify", "publish", "rebuild"),
)


def biva(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "biva", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def examples(verb: str) -> list[list[str]]:
    """Arguments of every example in the verb's help, without `biva` and variables set before it."""
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    lines = [shlex.split(line) for line in command.help.split("Example", 1)[1].splitlines()[1:]]
    return [line[line.index("biva") + 1 :] for line in lines if "biva" in line]


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom biva.cli import main\nsys.argv = ['biva', '--help']\ntry:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'mlflow', 'pandas', 'matplotlib', 'sklearn', 'pooch'} & set(sys.modules)\n"
        "    print('heavy:', *sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "heavy:\n"
    assert {line.split()[0] for line in done.stdout.split("Commands:")[1].splitlines() if line} == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples_that_its_parser_takes_and_that_name_things_that_exist(verb: str) -> None:
    shown = examples(verb)
    assert shown
    for arguments in shown:
        assert arguments[0] == verb
        assert_parsed(arguments)
        assert_names_exist(arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["describe", "nope"], "There is no architecture 'nope'"),
        (["bench", "nope"], "There is no architecture 'nope'"),
        (["bench", "digits_8x8", "--precision", "fp8"], "There is no precision 'fp8'. Known: fp32, tf32, bf16."),
        (["bench", "digits_8x8", "--device", "cpu", "--precision", "tf32"], "tf32 is a mode of NVIDIA GPUs"),
        (["plan", "nope"], "There is no experiment set 'nope'"),
        (["describe", "../architectures/digits_8x8"], "There is no architecture '../architectures/digits_8x8'"),
        (["collect", "../experiments/quick"], "There is no experiment set '../experiments/quick'"),
        (["table", "quick", "../likelihood"], "has no table '../likelihood'"),
        (["train", "quick", "../../x"], "has no run '../../x'"),
        (["fetch", "../digits"], "There is no dataset '../digits'"),
        (["fetch", "nope"], "There is no dataset 'nope'"),
        (["prepare", "nope"], "There is no dataset 'nope'"),
        (["train", "nope", "a/b/c/seed1"], "There is no experiment set 'nope'"),
        (["train", "quick", "a/b/c/seed1"], "has no run 'a/b/c/seed1'"),
        (["evaluate", "quick", "a/b/c/seed1"], "has no run 'a/b/c/seed1'"),
        (["evaluate", "quick", "digits/digits_8x8/biva/seed1", "--part", "3/2"], "'3/2' is no share of an evaluation"),
        (["collect", "nope"], "There is no experiment set 'nope'"),
        (["table", "quick", "nope"], "has no table 'nope'"),
        (["verify", "nope"], "There is no experiment set 'nope'"),
        (
            ["verify", "results/quick"],
            "nothing to verify: results/quick has no finished run",
        ),
        (["publish", "quick"], "There is nothing to verify"),
        (["rebuild", "quick"], "Nothing is published of quick. Published: nothing yet."),
        (["table", "quick", "likelihood"], "results/quick/results.csv does not exist"),
        (["train", "quick", "digits/digits_8x8/biva/seed1"], "is not prepared"),
    ],
)
def test_a_users_mistake_is_one_message_and_status_1(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    done = biva(*arguments, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "arguments", [["nope"], ["train"], ["describe", "biva_28x28", "--model", "gan"], ["figure", "quick", "nope"]]
)
def test_a_wrong_command_line_is_status_2_with_usage(arguments: list[str]) -> None:
    done = biva(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


def test_describe_prints_stages_and_the_parameters_line() -> None:
    done = biva("describe", "biva_28x28")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "parameters: 31550946"


def test_summary_of_a_set_that_has_not_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    done = biva("summary", "quick", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("results/quick/summary.tex\n")
    assert "not run" in (tmp_path / "results/quick/summary.tex").read_text()


def test_bench_measures_and_plan_reads_its_record(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    few = ["--batch-size", "4", "--importance-samples", "2", "--images", "1", "--seconds", "0"]
    done = biva(
        "bench", "digits_8x8", "--precision", "fp32", "--device", "cpu", "--threads", "1", *few, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "share  peak GB" in done.stdout
    planned = biva("plan", "quick", folder=tmp_path)
    assert planned.returncode == 0, planned.stderr
    speeds = [line.split("cpu", 1)[1].split()[0] for line in planned.stdout.splitlines() if line.startswith("quick ")]
    assert speeds == ["assumed", "assumed", "assumed", "measured", "measured", "assumed"]


def test_data_list_prints_every_dataset(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    done = biva("data", "list", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"digits", "cifar10", "celeba64"} <= {line.split(" ")[0] for line in done.stdout.splitlines()}


def test_schema_writes_what_is_in_the_repository(tmp_path: Path) -> None:
    done = biva("schema", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    schemas = [f"workflow/schemas/{name}.schema.json" for name in ("config", "experiments", "datasets", "architecture")]
    for path in (*schemas, "docs/configuration.md"):
        assert (tmp_path / path).read_text() == (ROOT / path).read_text()
