"""What a convolution is to its callers: where it reads, how it is computed, and the call that computes rows of it.

Every map is channels last, [b,h,w,c], each row contiguous. A kernel is a convolution's shapes and the path that
computes them; it knows what memory it takes before any weight is packed. A convolution is a kernel with its weights.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

Activation = Literal["silu", "relu"]


@dataclass(frozen=True)
class Geometry:
    """Which rows and columns a convolution reads.

    The input is enlarged `upsample` times by nearest, `padding` zeros are set above and left of it, `padding_after`
    below and right, then the kernel (height, width) moves in steps of `stride`.
    """

    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    upsample: int = 1
    padding: tuple[int, int] = (1, 1)
    padding_after: tuple[int, int] = (1, 1)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output for those of the input; 0 or less where the kernel is larger than the map."""
        return self._outputs(height, 0), self._outputs(width, 1)

    def input_rows(self, y0: int, y1: int, height: int) -> tuple[int, int]:
        """The first and last + 1 row, within an input of `height`, that output rows [y0,y1) read."""
        top = y0 * self.stride - self.padding[0]
        bottom = (y1 - 1) * self.stride - self.padding[0] + self.kernel[0]
        last = min(height, -(-bottom // self.upsample))
        return min(max(0, top // self.upsample), last), last

    def _outputs(self, size: int, axis: int) -> int:
        padded = size * self.upsample + self.padding[axis] + self.padding_after[axis]
        return (padded - self.kernel[axis]) // self.stride + 1


POINTWISE = Geometry(kernel=(1, 1), padding=(0, 0), padding_after=(0, 0))


@dataclass(frozen=True)
class Affine:
    """(x - mean) * scale + shift for each image and channel, [b,c] each in fp32, applied while a map is read.

    The mean stays apart, since x * scale + shift loses the digits of a deviation that is small beside its mean.
    """

    mean: Tensor
    scale: Tensor
    shift: Tensor

    def image(self, index: int) -> "Affine":
        """That of one image of the batch, [1,c] each."""
        one = slice(index, index + 1)
        return Affine(self.mean[one], self.scale[one], self.shift[one])


class Kernel(Protocol):
    """The shapes of a convolution and the path that computes them."""

    @property
    def path(self) -> str: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...

    @property
    def row_alignment(self) -> int:
        """Strips of the output begin at multiples of this many rows, so that their height changes no bit."""
        ...

    @property
    def packed_bytes(self) -> int:
        """What `prepare` takes beyond the weights that it is given."""
        ...

    @property
    def keeps_scratch(self) -> bool:
        """Whether threads keep the scratch for later runs, of any kernel."""
        ...

    def scratch_bytes(self, width: int, batch: int = 1) -> int:
        """The most that one `run` takes beside its arguments, over all threads, for an input of this width."""
        ...

    def prepare(self, weight: Tensor, bias: Tensor | None) -> "Convolution":
        """Pack the weights [out,in,height,width] and the bias [out]. Both may be kept, so they must not change."""
        ...


class Convolution(Protocol):
    """A kernel with its weights."""

    @property
    def kernel(self) -> Kernel: ...

    def run(
        self,
        window: Tensor,
        first_row: int,
        height: int,
        *,
        rows: tuple[int, int],
        out: Tensor,
        affine: Affine | None = None,
        activation: Activation | None = None,
        residual: Tensor | None = None,
        moments: bool = False,
    ) -> Tensor | None:
        """Write the output rows [y0,y1) to `out`, [b,y1-y0,ow,co].

        `window` [b,n,w,ci] holds the rows from `first_row` on of a map of `height` rows, at least those of
        `geometry.input_rows`. What lies outside the map is zero after affine and activation. `residual` is added; it
        has the shape of `out` and may be `out` itself. With `moments` gives the mean of each output row and channel and
        the sum of squared deviations from it, float64 [b,y1-y0,co,2].
        """
        ...
