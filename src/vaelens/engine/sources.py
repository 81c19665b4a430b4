"""Where the rows of a map come from: a stored map, an image, or a convolution that computes them when they are read.

A pass reads a source once from top to bottom, in strips. Rows that a convolution needs of a source which isn't in
memory lie in a window; it keeps those that are read again, so that nothing is computed or read twice within a pass. A
strip is written once the rows above and below it were read, so a map may be written over one that is being read.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vaelens.engine.maps import MemoryMap, ParkedMap, Shape
from vaelens.kernels.convolution import Activation, Affine, Convolution
from vaelens.kernels.moments import empty_moments


@dataclass(frozen=True, eq=False)
class Stored:
    """The rows of a whole map."""

    map: MemoryMap | ParkedMap

    @property
    def shape(self) -> Shape:
        """[b,h,w,c]."""
        return self.map.shape


@dataclass(frozen=True, eq=False)
class Planes:
    """The rows of an image [b,c,h,w], in the dtype and on the device of the network."""

    image: Tensor
    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> Shape:
        """[b,h,w,c]."""
        b, c, h, w = self.image.shape
        return b, h, w, c


@dataclass(frozen=True, eq=False)
class Convolved:
    """The rows of a convolution's output, computed from another source's."""

    source: "Source"
    convolution: Convolution
    affine: Affine | None = None
    activation: Activation | None = None
    residual: "Source | None" = None

    @property
    def shape(self) -> Shape:
        """[b,h,w,c]."""
        b, h, w, _ = self.source.shape
        kernel = self.convolution.kernel
        return b, *kernel.geometry.output_size(h, w), kernel.out_channels


SPARE_ROWS = 8  # of a window: its first strip has no rows above it, and later ones keep some
Source = Stored | Planes | Convolved
Fill = Callable[[int, int, Tensor], object]  # writes the rows [r0,r1) to a tensor [b,r1-r0,w,c]


class Sink(Protocol):
    """What takes rows as they are completed."""

    def write(self, y0: int, strip: Tensor) -> object: ...


@dataclass(frozen=True, eq=False)
class PlanesOut:
    """Rows into an image [b,c,h,w]."""

    image: Tensor

    def write(self, y0: int, strip: Tensor) -> None:
        """See `Sink`."""
        self.image[:, :, y0 : y0 + strip.shape[1]].copy_(strip.permute(0, 3, 1, 2))


class Pass:
    """One reading of a source from top to bottom, `rows` rows of it at a time.

    The stored maps `last` are read for the last time: their rows are given back to the system once they were read.
    `also` is a second source of as many rows that is made in the same pass, and its map.
    """

    def __init__(
        self,
        source: Convolved,
        rows: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        last: Collection[Source | None] = (),
        also: "tuple[Convolved, MemoryMap] | None" = None,
    ) -> None:
        self._last = last
        self._dtype, self._device = dtype, device
        self._windows: dict[Source, _Window | _Resident] = {}
        align = source.convolution.kernel.row_alignment
        self._shape = source.shape
        self._step = min(self._shape[1], max(align, rows // align * align))
        self._rows = _Rows(self, source)
        self._also = None if also is None else (_Rows(self, also[0]), also[1])

    def run(self, target: MemoryMap | Sink | None, moments: bool) -> Tensor | None:
        """Compute all rows into the target, if any; the rows' moments [b,h,c,2]."""
        b, h, w, c = self._shape
        found = empty_moments(self._shape, self._device) if moments else None
        strip = None
        for y0 in range(0, h, self._step):
            y1 = min(h, y0 + self._step)
            if isinstance(target, MemoryMap):
                out = target.values[:, y0:y1]
            else:
                strip = strip if strip is not None else self._empty(b, self._step, w, c)
                out = strip[:, : y1 - y0]
            part = self._rows.compute(y0, y1, out, moments=moments)
            if found is not None and part is not None:
                found[:, y0:y1] = part
            if self._also is not None:
                self._also[0].compute(y0, y1, self._also[1].values[:, y0:y1], moments=False)
            if target is not None and not isinstance(target, MemoryMap):
                target.write(y0, out)
            for window in self._windows.values():
                window.release()
        return found

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)

    def reader(self, source: Source) -> "_Reader":
        """A reader of a source, which it shares with the others of this pass."""
        if source not in self._windows:
            self._windows[source] = self._window(source)
        return _Reader(self._windows[source])

    def _window(self, source: Source) -> "_Window | _Resident":
        if isinstance(source, Stored):
            if isinstance(source.map, MemoryMap):
                return _Resident(source.map, source in self._last)
            return _Window(source.map.read, 1, source.shape, self._dtype, self._device)
        if isinstance(source, Planes):
            return _Window(_plane_rows(source), 1, source.shape, self._dtype, self._device)
        rows = _Rows(self, source)
        align = source.convolution.kernel.row_alignment
        fill: Fill = lambda y0, y1, out: rows.compute(y0, y1, out, moments=False)  # noqa: E731
        return _Window(fill, align, source.shape, self._dtype, self._device)


class _Rows:
    """Computes rows of a convolution's output within a pass."""

    def __init__(self, reading: Pass, source: Convolved) -> None:
        self._source = source
        self._reader = reading.reader(source.source)
        self._residual = None if source.residual is None else reading.reader(source.residual)

    def compute(self, y0: int, y1: int, out: Tensor, *, moments: bool) -> Tensor | None:
        source, geometry = self._source, self._source.convolution.kernel.geometry
        height = source.source.shape[1]
        r0, r1 = geometry.input_rows(y0, y1, height)
        following = geometry.input_rows(y1, y1 + 1, height)[0]
        window = self._reader.rows(r0, r1, following)
        residual = None if self._residual is None else self._residual.rows(y0, y1, y1)
        return source.convolution.run(
            window,
            r0,
            height,
            rows=(y0, y1),
            out=out,
            affine=source.affine,
            activation=source.activation,
            residual=residual,
            moments=moments,
        )


class _Resident:
    """The rows of a map in memory."""

    def __init__(self, stored: MemoryMap, last: bool) -> None:
        self._map, self._last = stored, last
        self.positions = list[int]()  # of the readers: rows before them are asked for no more

    def rows(self, r0: int, r1: int) -> Tensor:
        return self._map.values[:, r0:r1]

    def release(self) -> None:
        if self._last:
            self._map.release(min(self.positions))


class _Window:
    """The rows of a source that isn't in memory, as long as one of its readers may ask for them."""

    def __init__(
        self,
        fill: Fill,
        alignment: int,
        shape: Shape,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._fill, self._alignment, self._shape = fill, alignment, shape
        self._first = self._last = 0
        self._buffer = torch.empty((shape[0], 0, *shape[2:]), dtype=dtype, device=device)
        self.positions = list[int]()  # of the readers: rows before them are asked for no more

    def rows(self, r0: int, r1: int) -> Tensor:
        if r1 > self._last:
            self._extend(min(self._shape[1], -(-r1 // self._alignment) * self._alignment))
        return self._buffer[:, r0 - self._first : r1 - self._first]

    def release(self) -> None: ...

    def _extend(self, end: int) -> None:
        """Rows up to `end`, and of the present ones those that are still read."""
        first = min(self._last, *self.positions)
        kept = self._buffer[:, first - self._first : self._last - self._first]
        n = kept.shape[1]
        if end - first > self._buffer.shape[1]:
            b, _, w, c = self._shape
            buffer = self._buffer.new_empty((b, min(self._shape[1], end - first + SPARE_ROWS), w, c))
            buffer[:, :n] = kept
            self._buffer = buffer
        elif step := first - self._first:
            # No more rows at once than they move, so that they don't overlap: a copy of them all, made and freed in
            # each strip, would leave holes in the heap that small tensors keep too small for the next copy.
            for row in range(0, n, step):
                rows = kept[:, row : row + step]
                self._buffer[:, row : row + rows.shape[1]] = rows
        self._first = first
        start, self._last = self._last, end
        self._fill(start, end, self._buffer[:, n : n + end - start])


class _Reader:
    """One reader of a window; it asks for rows further and further down.

    The window doesn't know it: in a circle they would outlive the pass, with all the rows that they hold.
    """

    def __init__(self, window: _Window | _Resident) -> None:
        self._window = window
        self._index = len(window.positions)
        window.positions.append(0)

    def rows(self, r0: int, r1: int, following: int) -> Tensor:
        """Rows [r0,r1), valid until the next call of a reader of this pass; the next call begins at `following`."""
        self._window.positions[self._index] = r0
        rows = self._window.rows(r0, r1)
        self._window.positions[self._index] = following
        return rows


def _plane_rows(source: Planes) -> Fill:
    return lambda r0, r1, into: into.copy_(source.image[:, :, r0:r1].permute(0, 2, 3, 1))
