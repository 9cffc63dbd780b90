"""Stands in for the command `conda` where a test runs `snakemake --use-conda`: it resolves and downloads nothing.

An environment that it creates has the environment file that it was made from, and a `python` that notes its arguments
in `calls` and then is the Python that runs the test. What else Snakemake asks for is answered as conda does.
"""

import json
import shutil
import sys
from pathlib import Path

BASE = Path(__file__).parents[1]
"""Where conda would be installed: this file is BASE/bin/conda."""

ACTIVATE = 'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\n'
PYTHON = """#!/bin/sh
echo "$*" >> "{prefix}/calls"
exec "{python}" "$@"
"""


def main() -> None:
    match sys.argv[1:]:
        case ["--version"]:
            print("conda 24.11.3")
        case ["info", "--json"]:
            (BASE / "bin" / "activate").write_text(ACTIVATE)
            print(json.dumps({"conda_prefix": str(BASE), "platform": "linux-64"}))
        case ["clean", "-y", "--tarballs"]:
            pass
        case ["config", "--get", "channel_priority", "--json"]:
            print(json.dumps({"get": {"channel_priority": "strict"}}))
        case ["env", "create", "--quiet", "--no-default-packages", "--file", file, "--prefix", prefix]:
            python = Path(prefix, "bin", "python")
            python.parent.mkdir(parents=True)
            python.write_text(PYTHON.format(prefix=prefix, python=sys.executable))
            python.chmod(0o755)
            shutil.copy(file, Path(prefix, "environment.yml"))
        case _:
            sys.exit(f"the stand-in for conda knows no such call: {sys.argv[1:]}")


main()
