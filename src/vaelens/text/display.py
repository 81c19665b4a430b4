"""Text from files, archives, metadata and weights on a terminal: nothing in it may control the terminal."""

import unicodedata

JOINERS = {"\u200c", "\u200d"}  # format characters that some scripts and many emoji need
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi), surrogates of undecodable bytes, line separators
LONGEST_WORD, LONGEST_MESSAGE = 300, 900  # characters
ELLIPSIS = " ... "


def escaped(text: str) -> str:
    r"""The text in one line, as it can be shown: control characters, newlines and the like as \n, \x1b, \u202e."""
    if text.isprintable():
        return text
    return "".join(_escape(one) if _is_hidden(one) else one for one in text)


def message_line(text: str) -> str:
    """A message as one line of sensible length, escaped.

    A message says what failed, where, why, and what to do, in this order. So what is cut is the middle: first of words
    that no sentence holds, then of the whole.
    """
    if len(text) > LONGEST_MESSAGE:
        text = " ".join(shortened(word, LONGEST_WORD) for word in text.split(" "))
    return shortened(escaped(shortened(text, LONGEST_MESSAGE)), LONGEST_MESSAGE)


def shortened(text: str, length: int) -> str:
    """Text of at most that many characters: without its middle where it is longer."""
    if len(text) <= length:
        return text
    kept = length - len(ELLIPSIS)
    return text[: kept - kept // 3] + ELLIPSIS + text[-(kept // 3) :]


def _is_hidden(one: str) -> bool:
    return unicodedata.category(one) in INVISIBLE and one not in JOINERS


def _escape(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")
