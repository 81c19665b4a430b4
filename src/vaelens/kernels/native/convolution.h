// The C interface of the native kernels: one strip of rows of a convolution, channels last, in fp32.
//
// A call reads rows of an input map, applies a normalisation and an activation to them, convolves, adds bias and
// residual, writes rows of an output map, and gives the mean and the squared deviations of each row and channel. Each
// output value depends on its inputs alone, not on the strip's height nor on the number of threads.
#ifndef VAELENS_CONVOLUTION_H
#define VAELENS_CONVOLUTION_H

#include <stdint.h>

// The library is compiled with hidden visibility: what follows is all that it shows.
#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

// Of the structures and functions below; whoever changes them counts it up.
#define VAELENS_INTERFACE_VERSION 3

// How products are made. SPLIT_BF16: three products of bf16 halves, as exact as fp32 within 1e-5. BF16: one product.
enum vaelens_arithmetic { VAELENS_FP32 = 0, VAELENS_SPLIT_BF16 = 1, VAELENS_BF16 = 2 };

// What executes them. FP32 runs on PORTABLE, AVX2 and AVX512; the bf16 arithmetics on PORTABLE and AMX.
enum vaelens_instructions { VAELENS_PORTABLE = 0, VAELENS_AVX2 = 1, VAELENS_AVX512 = 2, VAELENS_AMX = 3 };

enum vaelens_activation { VAELENS_LINEAR = 0, VAELENS_SILU = 1, VAELENS_RELU = 2 };

enum vaelens_status { VAELENS_OK = 0, VAELENS_NO_MEMORY = 1, VAELENS_UNSUPPORTED = 2 };

// What fixes the packed weights. The input is enlarged `upsample` times (1, or 2 by nearest), then read with `stride`;
// `pad_top` and `pad_left` zeros stand before its first row and column, as many as needed after the last ones.
struct vaelens_kernel {
  int32_t arithmetic, instructions;
  int32_t in_channels, out_channels;
  int32_t height, width;  // of the kernel
  int32_t stride, upsample, pad_top, pad_left;
};

struct vaelens_strip {
  const float *input;  // rows [in_first, in_first + in_rows) of a map of in_height rows; the others of it aren't read
  int64_t in_first, in_rows, in_height, in_width;
  int64_t in_stride;                  // floats from one input pixel to the next, at least in_channels
  const float *mean, *scale, *shift;  // per input channel, (x - mean) * scale + shift; or all NULL
  int32_t activation;                 // after that; zeros around the map stay zeros
  int32_t threads;
  const void *weights;    // of vaelens_pack
  const float *bias;      // per output channel, or NULL
  const float *residual;  // of the output's shape, NULL, or the output itself
  float *output;          // rows [out_first, out_first + out_rows), each of out_width pixels
  int64_t out_first, out_rows, out_width;
  double *moments;  // [out_rows, out_channels, 2]: mean and sum of squared deviations of each row; or NULL
};

// VAELENS_INTERFACE_VERSION of the sources that the library was built from.
int32_t vaelens_interface_version(void);
// Bytes of packed weights, 64-byte aligned by the caller; -1 where the kernel isn't supported.
int64_t vaelens_packed_bytes(const struct vaelens_kernel *kernel);
// Weights [out, in, height, width] in fp32 to the layout that the kernel reads.
int vaelens_pack(const struct vaelens_kernel *kernel, const float *weights, int32_t threads, void *packed);
// Bytes that each thread takes while it computes, for a map of this width.
int64_t vaelens_scratch_bytes(const struct vaelens_kernel *kernel, int64_t in_width, int64_t out_width);
// Strips of the output must begin at multiples of this many rows: else their pixels are wrong.
int32_t vaelens_row_alignment(const struct vaelens_kernel *kernel);
int vaelens_convolve(const struct vaelens_kernel *kernel, const struct vaelens_strip *strip);

// The best instructions that this processor and system allow for an arithmetic.
int32_t vaelens_instructions(int32_t arithmetic);
// The address of GOMP_parallel of the OpenMP library that PyTorch computes with: its threads are then used. NULL: own
// threads, started for each call.
void vaelens_use_openmp(void *gomp_parallel);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif
