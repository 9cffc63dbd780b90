"""The one exception that means: the user can mend this, and here is how."""


class UserError(Exception):
    """A mistake or a missing thing outside the code, told in full in the message.

    The message says what was wrong, where, what was expected and what to do. The command line prints it
    without a traceback and exits with status 1.
    """
