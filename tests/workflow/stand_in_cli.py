"""Stands in for `biva/cli.py` where a test runs the real workflow: writes every verb's files in no time.

`calls.txt` gets a line per call. A file's content is a constant, so that running a verb again changes no content.
"""

import sys
from pathlib import Path

RUN_FILES = {
    "train": ("train.json", "weights.safetensors", "run.json", "record.jsonl", "checkpoint/state"),
    "evaluate": ("evaluation.json", "evaluation.safetensors"),
}


def main() -> None:
    verb, *arguments = sys.argv[1:]
    existing = ""
    match verb, arguments:
        case "fetch", [dataset]:
            write(f"resources/{dataset}/raw", "file")
        case "prepare", [dataset]:
            write(f"resources/{dataset}", "data.json", "data.safetensors")
        case (("train" | "evaluate"), [experiments, run]):
            folder = f"results/{experiments}/runs/{run}"
            existing = " ".join(sorted(path.name for path in Path(folder).iterdir()))
            write(folder, *RUN_FILES[verb])
        case "detect", [experiments, run, pair]:
            write(f"results/{experiments}/runs/{run}/anomaly", f"{pair}.json", f"{pair}.safetensors")
        case "anomalies", [experiments, pair]:
            write(f"results/{experiments}/anomalies", *(f"{pair}.{form}" for form in ("tex", "html", "pdf", "png")))
        case "collect", [experiments]:
            write(f"results/{experiments}", "results.csv")
        case "table", [experiments, name]:
            write(f"results/{experiments}/tables", f"{name}.tex", f"{name}.html")
        case "figure", [experiments, name]:
            write(f"results/{experiments}/figures", f"{name}.pdf", f"{name}.png")
        case "summary", [experiments]:
            write(f"results/{experiments}", "summary.tex")
        case "track", [_, *_]:
            print("tracked")
        case _:
            sys.exit(f"not a call that a rule should make: {sys.argv}")
    with Path("calls.txt").open("a") as calls:
        calls.write(f"{verb} {' '.join(arguments)} | {existing}\n")


def write(folder: str, *names: str) -> None:
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
