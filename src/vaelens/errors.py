"""The errors that users see, each with its exit code.

A message is one or two sentences: what failed, where (the file), why, and what to do next. The commands
print it without a traceback; library users catch `VaelensError` or one of its subclasses.
"""


class VaelensError(Exception):
    """Anything that vaelens reports about its surroundings rather than about itself."""

    exit_code = 1


class UsageError(VaelensError):
    """The call itself is wrong: an option that doesn't apply, an unknown name."""

    exit_code = 2


class BadInputError(VaelensError):
    """A file that isn't what it should be: damaged, incomplete, of another format."""

    exit_code = 3


class UnsafeFileError(VaelensError):
    """A file that could run code when it is read, refused before it is opened."""

    exit_code = 4


class NetworkError(VaelensError):
    """A download failed: the server can't be reached, or doesn't send the file."""

    exit_code = 5


class ResourceError(VaelensError):
    """Out of disk or memory."""

    exit_code = 6


class CheckFailedError(VaelensError):
    """A check failed: NaN in a weight, a wrong sha256, two devices that disagree."""

    exit_code = 7
