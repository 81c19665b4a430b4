"""Why a pickled file isn't read. `opening.py` turns both into the errors that users see."""


class WrongPickleError(ValueError):
    """What is wrong with a pickled file, in words that follow its path."""


class UnsafePickleError(Exception):
    """What could run code in a pickled file, in words that follow its path."""
