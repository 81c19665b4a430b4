"""A plan carried out: the steps of a network one after the other, each map made where the plan puts it."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from vaelens.engine.architecture import Attend, Layer, Norm, Resnet, Step, reads_moments
from vaelens.engine.attention import attend
from vaelens.engine.maps import MemoryMap, ParkedMap
from vaelens.engine.packed_weights import prepare
from vaelens.engine.plan import Place, Plan, StepPlan, early_shortcut
from vaelens.engine.sources import Convolved, Pass, Planes, PlanesOut, Sink, Source, Stored
from vaelens.kernels.convolution import Affine, Convolution
from vaelens.kernels.moments import MapMoments, merge_rows
from vaelens.kernels.paths import map_dtype
from vaelens.resources import give_back_memory


def run(
    steps: Sequence[Step],
    plan: Plan,
    image: Tensor,
    out: Tensor,
    dtype: torch.dtype,
    *,
    progress: Callable[[float], object],
) -> None:
    """The steps on an image [b,c,h,w] into `out` [b,c,H,W]; `progress` gets the done share before each of them."""
    execution = _Execution(image, out, dtype, plan.keep_weights)
    *done, seconds = accumulate((choice.seconds for choice in plan.steps), initial=0.0)
    for step, choice, following, before in zip(steps, plan.steps, [*steps[1:], None], done, strict=True):
        progress(before / seconds)
        execution.step(step, choice, reads_moments(following))
        if plan.gives_back:
            give_back_memory()


class _Execution:
    """The map that the next step reads, and its moments."""

    def __init__(self, image: Tensor, out: Tensor, dtype: torch.dtype, keep: bool) -> None:
        self._dtype, self._device, self._keep, self._out = dtype, out.device, keep, out
        self._map_dtype = map_dtype(dtype, out.device)
        self._source: Source = Planes(image, self._map_dtype, out.device)
        self._moments: MapMoments | None = None

    def step(self, step: Step, plan: StepPlan, moments: bool) -> None:
        """Replaces the source by the step's output."""
        if isinstance(step, Attend):
            self._attend(step, moments)
        elif isinstance(step, Resnet):
            self._resnet(step, plan, moments)
        else:
            affine = None if step.norm is None else self._affine(step.norm)
            convolved = Convolved(self._source, self._convolution(step.layer), affine, step.activation)
            self._source, self._moments = self._made(
                convolved, plan.place, plan.rows, moments=moments, last=_stored(self._source)
            )

    def _resnet(self, step: Resnet, plan: StepPlan, moments: bool) -> None:
        x, rows = self._source, plan.rows
        first = Convolved(x, self._convolution(step.conv1), self._affine(step.norm1), "silu")
        residual = x if step.shortcut is None else Convolved(x, self._convolution(step.shortcut))
        also, read = None, list[Source]()
        if isinstance(residual, Convolved) and residual is not x and early_shortcut(plan.hidden, plan.place):
            also, read = (residual, MemoryMap(residual.shape, self._map_dtype, self._device)), _stored(x)
        hidden, found = self._made(first, plan.hidden or "memory", rows, moments=True, last=read, also=also)
        assert found is not None
        del first  # and its packed weights, unless the hidden map is recomputed
        if also is not None:  # the input isn't read again
            self._source = x = residual = Stored(also[1])
            also, read = None, []
        second = Convolved(hidden, self._convolution(step.conv2), step.norm2.affine(found), "silu", residual)
        over = x.map if residual is x and isinstance(x, Stored) and _place(x) == plan.place else None
        last = [hidden] if over is not None else [hidden, *_stored(x)]
        self._source, self._moments = self._made(second, plan.place, rows, moments=moments, last=last, over=over)

    def _attend(self, step: Attend, moments: bool) -> None:
        assert isinstance(self._source, Stored)
        assert isinstance(self._source.map, MemoryMap)
        values = self._source.map.values
        query, output = (self._convolution(layer) for layer in (step.query, step.output))
        found = attend(values, self._affine(step.norm), query, output, moments)
        self._moments = None if found is None else merge_rows(found, values.shape[2])

    def _made(
        self,
        convolved: Convolved,
        place: Place,
        rows: int,
        *,
        moments: bool,
        last: Sequence[Source] = (),
        over: MemoryMap | ParkedMap | None = None,
        also: tuple[Convolved, MemoryMap] | None = None,
    ) -> tuple[Source, MapMoments | None]:
        """The output of a convolution at its place, a new map or `over` one that is there, and its moments.

        `last` are the sources that are read for the last time, `also` is made in the same pass.
        """
        target: MemoryMap | Sink | None = over
        made: Source = convolved
        if place == "output":
            target = PlanesOut(self._out)
        elif place != "recomputed":
            kind = MemoryMap if place == "memory" else ParkedMap
            stored = over or kind(convolved.shape, self._map_dtype, self._device)
            target, made = stored, Stored(stored)
        elif not moments:
            return convolved, None
        else:
            last = ()
        found = Pass(convolved, rows, self._map_dtype, self._device, last=last, also=also).run(target, moments)
        return made, None if found is None else merge_rows(found, convolved.shape[2])

    def _affine(self, norm: Norm) -> Affine:
        assert self._moments is not None
        return norm.affine(self._moments)

    def _convolution(self, layer: Layer) -> Convolution:
        return prepare(layer, layer.kernel(self._dtype, self._device), self._keep)


def _stored(source: Source) -> list[Source]:
    """The stored map that a source is computed from, itself included."""
    if isinstance(source, Convolved):
        return _stored(source.source)
    return [source]


def _place(source: Stored) -> Place:
    return "memory" if isinstance(source.map, MemoryMap) else "parked"
