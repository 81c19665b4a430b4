"""Tables on terminals of several widths, and in a pipe."""

import re
import sys

import pytest

from vaelens.cli.output import result_table
from vaelens.report.tables import Column, Table

LONG = "the same weights as vae-ft-mse-840000-ema-pruned.safetensors"
TABLE = Table(
    tuple(map(Column, ("file", "what it is", "stored as", "keep"))),
    (
        ("sharp/diffusion_pytorch_model.safetensors", LONG, "bf16", "no"),
        ("vae-ft-mse-840000-ema-pruned.safetensors", "ft-mse, the published file", "fp32", "yes: the published file"),
        ("cut.safetensors", "can't be read, see below", "-", "-"),
    ),
    shared=0,
)
SHORT = Table(tuple(map(Column, ("file", "keep"))), (("a.safetensors", "yes"), ("b.safetensors", "no")), shared=0)


def shown(
    table: Table, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    result_table(table, stacked=True)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    return [line.rstrip() for line in lines] if terminal else lines


def test_a_narrow_terminal_has_a_block_for_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(TABLE, 80, monkeypatch, capsys, terminal=True) == [
        "sharp/diffusion_pytorch_model.safetensors",
        "  what it is  the same weights as vae-ft-mse-840000-ema-pruned.safetensors",
        "  stored as   bf16",
        "  keep        no",
        "",
        "vae-ft-mse-840000-ema-pruned.safetensors",
        "  what it is  ft-mse, the published file",
        "  stored as   fp32",
        "  keep        yes: the published file",
        "",
        "cut.safetensors",
        "  what it is  can't be read, see below",
    ]
    narrower = shown(TABLE, 40, monkeypatch, capsys, terminal=True)
    assert max(map(len, narrower)) <= 40
    assert "  what it is  the same weights as" in narrower


def test_no_file_name_is_broken_on_a_terminal_that_is_a_little_too_narrow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = max(map(len, shown(TABLE, 400, monkeypatch, capsys, terminal=True)))
    assert whole > 120
    assert shown(TABLE, whole - 1, monkeypatch, capsys, terminal=True)[0] == TABLE.rows[0][0]
    assert len(shown(TABLE, whole, monkeypatch, capsys, terminal=True)) == 1 + len(TABLE.rows)


def test_rows_in_a_pipe_end_where_their_text_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(TABLE, 80, monkeypatch, capsys, terminal=False)
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[1].endswith("no")


@pytest.mark.parametrize(("table", "columns", "terminal"), [(TABLE, 200, True), (TABLE, 80, False), (SHORT, 80, True)])
def test_a_table_that_fits_and_one_in_a_pipe_stay_tables(
    table: Table, columns: int, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(table, columns, monkeypatch, capsys, terminal=terminal)
    assert len(lines) == 1 + len(table.rows)
    assert [line.split()[0] for line in lines] == ["file", *(row[0] for row in table.rows)]
