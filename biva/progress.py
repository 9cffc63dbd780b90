"""A bar of progress on a terminal; elsewhere, such as in a job's log, nothing."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def progress_bar(*columns: ProgressColumn, shown: bool = True) -> Progress:
    """A bar on standard error: a description, these columns, the time left. What is printed there appears above it."""
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        *columns,
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=1,
        speed_estimate_period=300,  # seconds, since an evaluation may take minutes
        redirect_stdout=False,
        expand=True,
        disable=not (shown and console.is_interactive),
    )
