"""Stands in for `biva/cli.py` where a test runs the real workflow: writes every verb's files in no time.

`calls.txt` gets a line per call, `pythons.txt` the environment that ran it. A file's content is a constant, so running
a verb again changes no content; but `run.json` has the environment of its Python.
"""

import sys
from pathlib import Path


def main() -> None:
    verb, *arguments = sys.argv[1:]
    names = [word for word in arguments if not word.startswith("--")]
    options = {}
    for option in [word for word in arguments if word.startswith("--")]:
        value = arguments[arguments.index(option) + 1]
        names.remove(value)
        options[option] = Path(value)
    existing = ""
    match verb, names, options:
        case "fetch", [_], {"--to": folder}:
            write(folder, "file")
        case "prepare", [_], {"--from": raw, "--to": folder} if (raw / "file").is_file():
            write(folder, "data.json", "data.safetensors")
        case "train", [_, _], {"--data": data, "--to": folder} if (data / "data.json").is_file():
            assert "--parent" not in options or (options["--parent"] / "weights.safetensors").is_file()
            existing = " ".join(sorted(path.name for path in folder.iterdir()))
            write(folder, "train.json", "weights.safetensors", "record.jsonl", "checkpoint/state")
            (folder / "run.json").write_text(sys.prefix)
        case "evaluate", [_, _], {"--data": data, "--run": folder} if (data / "data.json").is_file():
            write(folder, *([] if "--part" in options else ["evaluation.json", "evaluation.safetensors"]))
        case "detect", [_, _, pair], {"--data": data, "--anomalous": other, "--run": folder} if data != other:
            write(folder / "anomaly", f"{pair}.json", f"{pair}.safetensors")
        case "anomalies", [_, pair], {"--results": folder}:
            write(folder / "anomalies", *(f"{pair}.{form}" for form in ("tex", "html", "json", "pdf", "png")))
        case "collect", [_], {"--results": folder}:
            write(folder, "results.csv")
        case "table", [_, name], {"--results": folder}:
            write(folder / "tables", *(f"{name}.{form}" for form in ("tex", "html", "json")))
        case "figure", [_, name], {"--results": folder}:
            write(folder / "figures", f"{name}.pdf", f"{name}.png")
        case "summary", [_], {"--results": folder}:
            write(folder, "summary.tex", "index.html")
        case "track", [_, *_], {"--results": _}:
            print("tracked")
        case _:
            sys.exit(f"not a call that a rule should make: {sys.argv}")
    for name, line in (("calls.txt", f"{verb} {' '.join(names)} | {existing}"), ("pythons.txt", sys.prefix)):
        with Path(name).open("a") as file:
            file.write(f"{line}\n")


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
