"""The one exception for what the user can fix; its message says how."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake or a missing thing outside the code, reported in full by the message.

    The message says what was wrong, where, what was expected and what to do. The command line prints it
    without a traceback and exits with status 1.
    """


def some_of(words: Sequence[str], most: int) -> str:
    """The first words of a list for a message, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
