// What dispatch.cpp calls: the shared implementations, compiled once for each instruction set in a namespace of its
// own.
#ifndef VAELENS_PATHS_H
#define VAELENS_PATHS_H

#include "convolution.h"

namespace vaelens {

struct Path {
  int64_t (*packed_bytes)(const vaelens_kernel &);  // -1: not supported
  int (*pack)(const vaelens_kernel &, const float *, int, void *);
  int64_t (*scratch_bytes)(const vaelens_kernel &, int64_t in_width, int64_t out_width);
  int32_t (*row_alignment)(const vaelens_kernel &);
  int (*convolve)(const vaelens_kernel &, const vaelens_strip &);
};

extern const Path fp32_portable, fp32_avx2, fp32_avx512, split_portable, split_amx;

}  // namespace vaelens

#endif
