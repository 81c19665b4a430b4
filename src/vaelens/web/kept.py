"""The VAEs that stay in memory from one job to the next, as loading takes seconds."""

from collections.abc import Sequence
from typing import Any

from vaelens.loading import load
from vaelens.vae import VAE
from vaelens.web.choices import Decoder


class Kept:
    """VAEs that stay in memory between jobs, the last used ones; one device's. A job may have more of them: `trim`."""

    def __init__(self, device: str, dtype: str, space: str | None, most: int = 4) -> None:
        self._options: dict[str, Any] = {"device": device, "dtype": dtype, "space": space, "offline": True}
        self._most = most
        self._kept: dict[str, VAE] = {}

    def get(self, wanted: Sequence[Decoder]) -> list[VAE]:
        """The VAEs in order, under the names that they are shown by. Raises what loading raises."""
        names = [one.id for one in wanted]
        others = [key for key in self._kept if key not in names]
        for key in others[: max(0, len(others) + len(names) - self._most)]:  # before loading, while there is no room
            del self._kept[key]
        for one in wanted:
            vae = self._kept.pop(one.id, None) or load(one.source, **self._options)
            vae.name = one.name
            self._kept[one.id] = vae
        return [self._kept[key] for key in names]

    def trim(self) -> None:
        """After a job: keep no more than stay."""
        for key in list(self._kept)[: -self._most]:
            del self._kept[key]

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
