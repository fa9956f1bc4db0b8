"""The one exception that is the user's to mend."""

from __future__ import annotations


class InputError(ValueError):
    """Raised when something a user gave (a configuration, a file, a language) cannot be used.

    Its message is one sentence that names the culprit and says what to do. The command line and the host's recipe
    runner print that sentence, without a traceback, and end with exit status 2.
    """
