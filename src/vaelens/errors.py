"""What can go wrong for a user, each kind with its exit code.

A message is one clear sentence or two: what, where (the file), why, and what to do next. The commands
print it without a traceback; library users catch `VaelensError` or one of its kinds.
"""


class VaelensError(Exception):
    """Anything that vaelens reports about its surroundings rather than about itself."""

    exit_code = 1


class UsageError(VaelensError):
    """The call can't be carried out as it was asked: a wrong option, an unknown name."""

    exit_code = 2


class BadInputError(VaelensError):
    """A file that isn't what it should be: damaged, incomplete, of another kind."""

    exit_code = 3


class UnsafeFileError(VaelensError):
    """A file that could run code when it is read, refused before it is opened."""

    exit_code = 4


class NetworkError(VaelensError):
    """The hub can't be reached, or doesn't give the file."""

    exit_code = 5


class ResourceError(VaelensError):
    """Out of disk or memory."""

    exit_code = 6


class CheckFailedError(VaelensError):
    """A check failed: NaN in a weight, a wrong sha256, two devices that disagree."""

    exit_code = 7
