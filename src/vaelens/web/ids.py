"""Ids of jobs and uploads: made here, 32 random hexadecimal digits, and only such a one ever becomes part of a path."""

import re
import secrets

ID = re.compile(r"[0-9a-f]{32}")


def new_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_hex(16)
