"""Stands in for the command `conda` where a test runs `snakemake --sdm conda`: it resolves and downloads nothing.

An environment that it creates is an empty virtual environment with the environment file that it was made from.
Activating one changes PATH as conda does. What else Snakemake asks for is answered as conda does.
"""

import json
import shutil
import sys
import venv
from pathlib import Path

BASE = Path(__file__).parents[1]
"""Where conda would be installed: this file is BASE/bin/conda."""

ACTIVATE = """
if [ "${CONDA_SHLVL:-0}" -ge 1 ]; then
    PATH=":$PATH:"
    PATH="${PATH/":$CONDA_PREFIX/bin:"/":$1/bin:"}"
    PATH="${PATH#:}"
    PATH="${PATH%:}"
else
    PATH="$1/bin:$PATH"
fi
export PATH CONDA_PREFIX="$1" CONDA_SHLVL=$((${CONDA_SHLVL:-0} + 1))
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
            venv.create(prefix, symlinks=True)
            shutil.copy(file, Path(prefix, "environment.yml"))
        case _:
            sys.exit(f"the stand-in for conda knows no such call: {sys.argv[1:]}")


main()
