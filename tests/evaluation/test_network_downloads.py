"""The metric networks of a preset: announced, downloaded once, checked, and read from the cache afterwards."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from support.small_run import SIDE, SMALL
from support.standins.web import WebStandin
from support.vaes import random_vae
from vaelens.errors import CheckFailedError
from vaelens.evaluation.presets import PRESETS
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.metrics import pretrained

pytestmark = pytest.mark.usefixtures("small_runs")
MODERN = dataclasses.replace(PRESETS["modern"], side=SIDE)


def test_networks_are_downloaded_once_and_checked(
    photos: Path, trunks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random trunks stand in the published files' place; one is damaged on its way and refused."""
    vae = random_vae(SMALL, 1)
    contents = {name: path.read_bytes() for name, path in trunks.items()}
    notices: list[str] = []

    def run(folder: str, **options: object) -> Results | None:
        notices.clear()
        return evaluate(
            vae, photos, preset=MODERN, take=1, batch=1, threads=1, device="cpu", output=tmp_path / folder,
            notify=notices.append, **options,
        )  # type: ignore[arg-type]  # fmt: skip

    with WebStandin() as web:
        entries = {
            name: entry.model_copy(
                update={
                    "urls": (web.add(f"/{entry.file}", contents[name]),),
                    "bytes": len(contents[name]),
                    "sha256": hashlib.sha256(contents[name]).hexdigest(),
                }
            )
            for name, entry in pretrained.network_files().items()
        }
        monkeypatch.setattr(pretrained, "network_files", lambda: entries)
        damaged = bytearray(contents["lpips-alex"])
        damaged[-1] ^= 1
        web.fault(f"/{entries['lpips-alex'].file}", body=bytes(damaged), times=1)
        with pytest.raises(CheckFailedError, match=r"lpips-v0\.1-alex\.pth.*sha256") as caught:
            run("run")
        assert caught.value.exit_code == 7
        size = sum(map(len, contents.values())) / 1e6
        names = "inception, vgg16, lpips-vgg, alexnet, lpips-alex"
        assert notices[0].startswith(f"The preset modern needs {names}: {size:,.0f} MB, downloaded once.")
        for entry in entries.values():
            assert any(entry.file in notice and "downloading" in notice for notice in notices)
        assert not (tmp_path / "run").exists()
        assert len(web.requests) == 5

        results = run("run")
        assert notices[0].startswith("The preset modern needs lpips-alex: 0 MB, downloaded once.")
        assert [seen.path for seen in web.requests[5:]] == [f"/{entries['lpips-alex'].file}"], "the others are cached"
        assert results is not None
        assert {network["source"] for network in results.record["settings"]["networks"].values()} == {"published"}
        assert None not in results.rows[0].scores.values()

        before = len(web.requests)
        monkeypatch.setattr("vaelens.download.web_files._transfer", lambda *_: pytest.fail("a request was sent"))
        again = run("again", offline=True)
        assert again is not None
        assert [row.scores for row in again.rows] == [row.scores for row in results.rows]
        assert len(web.requests) == before
        assert not any("download" in notice for notice in notices)
