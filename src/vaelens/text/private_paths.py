"""Texts that get passed on: records, reports, pages. They hold no folders of this machine."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

ROOTS = r"(?:[A-Za-z]:[\\/]|[~.]?/)"
QUOTED = re.compile(rf"""(?<!\w)(['"]){ROOTS}(?:[^'"\n]*[/\\])?(?=[^'"/\\\n]+\1)""")
WORD = r"(?![~.]{1,2}[/\\])[^\s:,;'\"()/\\]+"
# A folder's name may have blanks; a file's name with its suffix ends the path.
BLANK = r"(?<!\.\w{2})(?<!\.\w{3})(?<!\.\w{4})(?<!\.safetensors) "
# Not the rest of a relative path, whose folder ends with a bracket or a quote, nor of an address.
BEFORE = r"(?<![\w.:/)\]}%])(?<![\w)\]}]['\"])"
FOLDERS = re.compile(rf"{BEFORE}{ROOTS}(?:{WORD}(?:{BLANK}{WORD})*[/\\])*(?=[^\s:,;'\"()/\\])")


def without_folders(text: str, known: Mapping[str, str] | None = None) -> str:
    """The text with each absolute path, or one from `~` or `.`, reduced to its last part; other relative ones stay.

    A path that isn't quoted is recognized up to a bracket or punctuation. The paths of `known`, as `replace_paths` has
    it, the working folder and the home may have any name.
    """
    places = {str(Path.cwd()): ".", str(Path.home()): "~", **(known or {})}
    return FOLDERS.sub("", QUOTED.sub(r"\1", replace_paths(text, places)))


def replace_paths(text: str, places: Mapping[str, str]) -> str:
    """The text with each of these paths, in any form it may have there, replaced by what stands for it.

    A text without a separator, such as a name, isn't a path, and the root is too short for one.
    """
    forms = {form: shown for path, shown in places.items() for form in _forms(path)}
    for form in sorted(forms, key=len, reverse=True):
        before = r"(?<![\w.~-])" if Path(form).is_absolute() else r"(?<![\w./\\~-])"
        shown = forms[form]
        text = re.sub(rf"{before}{re.escape(form)}(?![\w-])", lambda _, shown=shown: shown, text)
    return text


def _forms(path: str) -> set[str]:
    expanded = os.path.expanduser(path)  # noqa: PTH111 (Path's raises an error for an unknown user)
    forms = {path, expanded, os.path.abspath(expanded), os.path.realpath(expanded)}  # noqa: PTH100 (links stay)
    long = {form for form in forms if re.search(r"[/\\]", form) and len(Path(form).parts) > 1}
    return long | {json.dumps(form)[1:-1] for form in long}
