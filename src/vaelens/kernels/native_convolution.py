"""The convolution of the native library, on maps in fp32 on the CPU. Which path it takes is part of its kernel."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.kernels import library
from vaelens.kernels.convolution import Activation, Affine, Geometry
from vaelens.kernels.library import Arithmetic, Instructions, Status
from vaelens.kernels.moments import empty_moments

# Of a pointwise convolution at once: 32 pixels of so many channels and their weights fit the second-level cache.
MOST_CHANNELS = 4096

ALIGNMENT = 64  # bytes, of packed weights

# How each path multiplies, and on which instructions.
PATHS = {
    "amx": (Arithmetic.SPLIT_BF16, Instructions.AMX),
    "amx-bf16": (Arithmetic.BF16, Instructions.AMX),
    "avx512": (Arithmetic.FP32, Instructions.AVX512),
    "avx2": (Arithmetic.FP32, Instructions.AVX2),
    "portable": (Arithmetic.FP32, Instructions.PORTABLE),
    "tiles": (Arithmetic.SPLIT_BF16, Instructions.PORTABLE),
    "tiles-bf16": (Arithmetic.BF16, Instructions.PORTABLE),
}

ACTIVATIONS = {
    None: library.Activation.LINEAR,
    "silu": library.Activation.SILU,
    "relu": library.Activation.RELU,
}


@dataclass(frozen=True)
class NativeKernel:
    """See `Kernel`. A path of PATHS that this processor has."""

    geometry: Geometry
    in_channels: int
    out_channels: int
    path: str
    keeps_scratch: bool = True

    @property
    def row_alignment(self) -> int:
        """See `Kernel`."""
        return max(self.geometry.upsample, library.load().vaelens_row_alignment(self.parts[0]))

    @property
    def packed_bytes(self) -> int:
        """See `Kernel`."""
        return sum(_packed_bytes(part) for part in self.parts)

    def scratch_bytes(self, width: int, batch: int = 1) -> int:
        """See `Kernel`; images of a batch are computed one after the other."""
        del batch
        out_width = self.geometry.output_size(self.geometry.kernel[0], width)[1]
        return torch.get_num_threads() * library.load().vaelens_scratch_bytes(self.parts[0], width, out_width)

    def prepare(self, weight: Tensor, bias: Tensor | None) -> "NativeConvolution":
        """See `Kernel`. The weights may be of any dtype."""
        packed = list[Tensor]()
        for part, channels in zip(self.parts, self.part_channels, strict=True):
            packed.append(_packed(part, weight[:, channels].to(torch.float32).contiguous()))
        return NativeConvolution(self, tuple(packed), None if bias is None else bias.to(torch.float32).contiguous())

    @property
    def part_channels(self) -> list[slice]:
        """The input channels of each part: of one, but for pointwise convolutions of very many channels."""
        step = MOST_CHANNELS if self.geometry.kernel == (1, 1) and self.geometry.stride == 1 else self.in_channels
        return [slice(i, min(i + step, self.in_channels)) for i in range(0, self.in_channels, step)]

    @functools.cached_property
    def parts(self) -> list[library.Kernel]:
        """The library's kernels whose sum it is."""
        arithmetic, instructions = PATHS[self.path]
        (height, width), (top, left) = self.geometry.kernel, self.geometry.padding
        return [
            library.Kernel(
                arithmetic,
                instructions,
                channels.stop - channels.start,
                self.out_channels,
                height,
                width,
                self.geometry.stride,
                self.geometry.upsample,
                top,
                left,
            )
            for channels in self.part_channels
        ]


@dataclass(frozen=True)
class NativeConvolution:
    """See `Convolution`."""

    kernel: NativeKernel
    packed: tuple[Tensor, ...]
    bias: Tensor | None

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
        """See `Convolution`. Raises MemoryError where a thread's scratch can't be allocated."""
        if window.shape[3] != self.kernel.in_channels:
            raise ValueError(f"a map of {window.shape[3]} channels can't be read by {self.kernel}")
        first, last = self.kernel.geometry.input_rows(*rows, height)
        if first < first_row or last > first_row + window.shape[1]:
            raise ValueError(f"rows {rows} read more than the {window.shape[1]} rows from {first_row} on")
        if rows[0] % self.kernel.row_alignment:
            raise ValueError(f"rows {rows} don't begin at a multiple of {self.kernel.row_alignment}")
        batch, _, width, _ = out.shape
        found = empty_moments(out.shape, out.device) if moments else None
        parts = self.kernel.part_channels
        for i in range(batch):
            one = None if affine is None else affine.image(i)
            for number, some in enumerate(parts):
                last = number == len(parts) - 1
                self._run_part(
                    number,
                    window[i, :, :, some],
                    out[i],
                    place=(first_row, height),
                    rows=rows,
                    width=width,
                    affine=None if one is None else Affine(one.mean[0, some], one.scale[0, some], one.shift[0, some]),
                    activation=activation,
                    residual=out[i] if number else residual if residual is None else residual[i],
                    moments=found[i] if found is not None and last else None,
                )
        return found

    def _run_part(
        self,
        number: int,
        window: Tensor,
        out: Tensor,
        *,
        place: tuple[int, int],
        rows: tuple[int, int],
        width: int,
        affine: Affine | None,
        activation: Activation | None,
        residual: Tensor | None,
        moments: Tensor | None,
    ) -> None:
        """One image: window [n,w,ci], out [y1-y0,ow,co]; the bias comes with the first part."""
        given = [window, out, residual, *(() if affine is None else (affine.mean, affine.scale, affine.shift))]
        if wrong := [t for t in given if t is not None and (t.dtype != torch.float32 or t.device.type != "cpu")]:
            raise ValueError(
                f"native convolutions compute in fp32 on the CPU, not {wrong[0].dtype} on {wrong[0].device}"
            )
        for tensor in (out, residual):
            if tensor is not None and (not tensor.is_contiguous() or tensor.shape != out.shape):
                raise ValueError(
                    f"{list(tensor.shape)} with strides {tensor.stride()} can't be rows of {list(out.shape)}"
                )
        if out.shape != (rows[1] - rows[0], width, self.kernel.out_channels):
            raise ValueError(f"rows {rows} can't be written to {list(out.shape)}")
        stride = window.stride(1) if window.shape[1] > 1 else max(window.shape[2], window.stride(1))
        if window.stride(2) != 1 or (window.shape[0] > 1 and window.stride(0) != window.shape[1] * stride):
            raise ValueError(f"the pixels of an input must lie at equal distances, not strides {window.stride()}")
        bias = self.bias if number == 0 else None
        strip = library.Strip(
            input=window.data_ptr(),
            in_first=place[0],
            in_rows=window.shape[0],
            in_height=place[1],
            in_width=window.shape[1],
            in_stride=stride,
            mean=_address(affine and affine.mean),
            scale=_address(affine and affine.scale),
            shift=_address(affine and affine.shift),
            activation=ACTIVATIONS[activation],
            threads=torch.get_num_threads(),
            weights=self.packed[number].data_ptr(),
            bias=_address(bias),
            residual=_address(residual),
            output=out.data_ptr(),
            out_first=rows[0],
            out_rows=rows[1] - rows[0],
            out_width=width,
            moments=_address(moments),
        )
        status = library.load().vaelens_convolve(self.kernel.parts[number], strip)
        if status == Status.NO_MEMORY:
            raise MemoryError("a convolution's scratch memory can't be allocated")
        if status != Status.OK:
            raise ValueError(f"the native library doesn't support {self.kernel}")


def best_instructions(arithmetic: Arithmetic) -> Instructions:
    """The fastest instructions for an arithmetic that this processor, system and library have."""
    return Instructions(library.load().vaelens_instructions(arithmetic))


def supported(kernel: NativeKernel) -> bool:
    """Whether the library has code for the kernel; whether this processor can run it, `best_instructions` says."""
    return all(library.load().vaelens_packed_bytes(part) >= 0 for part in kernel.parts)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _packed_bytes(part: library.Kernel) -> int:
    return library.load().vaelens_packed_bytes(part) + ALIGNMENT


def _packed(part: library.Kernel, weight: Tensor) -> Tensor:
    """The weights as the library reads them."""
    buffer = torch.empty(_packed_bytes(part), dtype=torch.uint8, device="cpu")
    packed = buffer[-buffer.data_ptr() % ALIGNMENT :]
    status = library.load().vaelens_pack(part, weight.data_ptr(), torch.get_num_threads(), packed.data_ptr())
    if status != Status.OK:
        raise ValueError(f"the native library doesn't pack weights {list(weight.shape)}")
    return packed
