// Split-bf16 convolutions on AMX's matrix unit.
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"
#include "paths.h"

// Of GCC 12's own headers (its bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace vaelens {
namespace {

#include "split_sizes.inl"
#include "tiles_amx.h"

#include "split_loading.inl"
#include "split_packing.inl"

#include "split.inl"
}  // namespace

const Path split_amx = {packed_bytes, pack, scratch_bytes, row_alignment, convolve};

}  // namespace vaelens
