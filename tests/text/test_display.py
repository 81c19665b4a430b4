"""What a terminal gets of texts that come from files."""

import pytest

from vaelens.text.display import LONGEST_MESSAGE, escaped, message_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x07\x00", r"a\x1b[31mb\x07\x00"),
        ("two\nlines\r\ttab\x85\u2028", r"two\nlines\r\ttab\x85\u2028"),
        ("evil\u202egpj.exe", r"evil\u202egpj.exe"),
        ("\udcff.png", r"\udcff.png"),
        ("日本語 é ± 👩\u200d🔬\xa0x", "日本語 é ± 👩\u200d🔬\xa0x"),
    ],
)
def test_what_could_control_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_a_long_message_keeps_what_where_and_what_to_do() -> None:
    words = message_line(f"photo.png: a damaged image: {'x' * 100_000} {'why ' * 100_000}. Copy it again.")
    assert words.startswith("photo.png: a damaged image: xxx")
    assert words.endswith("Copy it again.")
    assert "xxx why" in words, "a long word alone doesn't push out the rest"
    assert len(words) <= LONGEST_MESSAGE
    assert len(message_line("\x1b" * 10**6)) <= LONGEST_MESSAGE
    usual = "out.png: not written: Read-only file system. Check the folder's permissions, or name another."
    assert message_line(usual) == usual
