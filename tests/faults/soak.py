"""`make soak`: random faults for a number of minutes, and a summary of them in `results/soak/`.

Exit status 1 if anything was lost or changed; the folder of that case is kept then.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from biva.origin import commit, versions
from biva.records import write_atomically
from tests.faults.faults import FAULTS, CannotBeTried, Lab

SUMMARY = Path("results/soak/summary.md")


def soak(minutes: float, seed: int, folder: Path) -> tuple[str, bool]:
    """All faults in a random order again and again until the time is up, each case to its end.

    Returns:
        The summary, and whether anything was lost or changed.
    """
    about, code = versions(), commit()
    lab, chance, started = Lab(folder), random.Random(seed), time.monotonic()
    kinds = {fault.__name__: fault for fault in FAULTS}
    cases, strikes, losses, problems = Counter[str](), Counter[str](), Counter[str](), list[str]()
    turn: list[str] = []
    while time.monotonic() - started < 60 * minutes:
        turn = turn or chance.sample(sorted(kinds), len(kinds))
        name, of_case = turn.pop(), chance.getrandbits(32)
        try:
            strikes[name] += lab.strike(kinds[name], of_case)
            cases[name] += 1
            print(f"{name}, seed {of_case}: nothing lost", flush=True)
        except CannotBeTried as reason:
            problems.append(f"{name} was not tried: {reason}")
            del kinds[name]
        except Exception:
            losses[name] += 1
            problems.append(f"{name}, seed {of_case}:\n\n```\n{traceback.format_exc().strip()}\n```")
            print(problems[-1], flush=True)
    table = [f"| {name} | {strikes[name]} | {cases[name]} | {losses[name]} |" for name in sorted(cases | losses)]
    table.append(f"| all | {strikes.total()} | {cases.total()} | {losses.total()} |")
    lines = [
        "# Faults on purpose",
        "",
        f"Seed {seed}, {(time.monotonic() - started) / 60:.1f} minutes, commit {code}, "
        f"torch {about['torch']}, Python {about['python']}, {about['platform']}.",
        "",
        "A case is a run, or several, that faults of its kind strike until it is completed; it is lost or changed if "
        "anything differs from the undisturbed run: weights, metrics, record, files, points in MLflow.",
        "",
        "| kind | faults | cases completed | lost or changed |",
        "| --- | ---: | ---: | ---: |",
        *table,
        "",
        *(f"- {problem}" for problem in problems),
    ]
    return "\n".join(lines).rstrip() + "\n", losses.total() > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="default: any")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="biva-soak-"))
    summary, lost = soak(arguments.minutes, arguments.seed, folder)
    if not lost:
        shutil.rmtree(folder)
    write_atomically(SUMMARY, summary.encode())
    print(summary, SUMMARY, sep="\n")
    sys.exit(lost)


if __name__ == "__main__":
    main()
