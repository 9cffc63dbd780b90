"""Stands in for the command `apptainer` where a test runs `snakemake --sdm apptainer`: it isolates nothing.

Its image is a file that names the folder of a virtual environment, whose commands come first in jobs, as an image's do.
What it was asked to bind is written into `binds.txt` in the working folder.
"""

import os
import sys
from pathlib import Path

match sys.argv[1:]:
    case ["--version"]:
        print("apptainer version 1.4.0")
    case ["exec", "--home", _, *options, image, shell, "-c", command]:
        with open("binds.txt", "a") as file:
            print(*options, file=file)
        os.environ["PATH"] = os.pathsep.join([f"{Path(image).read_text()}/bin", os.environ["PATH"]])
        os.execvp(shell, [shell, "-c", command])
    case _:
        sys.exit(f"the stand-in for apptainer knows no such call: {sys.argv[1:]}")
