// The portable twin of split_amx.cpp.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"
#include "paths.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between functions of this file alone

namespace vaelens {
namespace {

#include "split_sizes.inl"
#include "tiles_portable.h"

#include "split_loading.inl"
#include "split_packing.inl"

#include "split.inl"
}  // namespace

const Path split_portable = {packed_bytes, pack, scratch_bytes, row_alignment, convolve};

}  // namespace vaelens
