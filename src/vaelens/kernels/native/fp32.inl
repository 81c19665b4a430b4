// fp32 convolutions for one set of instructions: the file that includes this one names the path, its vectors' width and
// how many rows of sums its registers hold. Everything here is of this path alone (an unnamed namespace, and no inline
// function of the standard library), so that no code for newer processors takes the place of another path's.
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "convolution.h"
#include "parallel.h"
#include "paths.h"

namespace vaelens {
namespace {

#include "fp32_vectors.inl"

#include "fp32_loading.inl"

#include "fp32_products.inl"

#include "fp32_epilogue.inl"

#include "fp32_transforms.inl"

#include "fp32_winograd.inl"

#include "fp32_direct.inl"

bool supported(const vaelens_kernel &kernel) {
  return kernel.in_channels > 0 && kernel.out_channels > 0 && kernel.height > 0 && kernel.width > 0 &&
         int64_t(kernel.height) * kernel.width <= kMostTaps && (kernel.stride == 1 || kernel.stride == 2) &&
         (kernel.upsample == 1 || kernel.upsample == 2) && kernel.pad_top >= 0 && kernel.pad_left >= 0;
}

// Winograd saves 108 of 144 products per tile, input and output channel, and pays about 250 operations per tile and
// channel for the transforms: worth it unless there are few input channels.
bool uses_winograd(const vaelens_kernel &kernel) {
  return kernel.height == 3 && kernel.width == 3 && kernel.stride == 1 && kernel.in_channels >= 16;
}

// Of nine taps, packed early.
int64_t transformed_values(const vaelens_kernel &kernel) {
  return in_phases(kernel) ? 4 * Tile<2>::frequencies : Tile<3>::frequencies;
}

int64_t packed_bytes(const vaelens_kernel &kernel) {
  if (!supported(kernel)) return -1;
  const bool frequencies = uses_winograd(kernel) && transforms_early(kernel);
  const int64_t values = frequencies ? transformed_values(kernel) : int64_t(kernel.height) * kernel.width;
  return values * kernel.in_channels * Panels(kernel.out_channels).padded() * int64_t(sizeof(float));
}

struct Packing {
  const vaelens_kernel *kernel;
  const float *weights;
  float *packed;
};

// Direct: to [panels, taps, in_channels, width of the panel]; Winograd, early: the same with the values of each phase
// for nine taps; late: [panels, in_channels, taps, width]. Channels behind the last get zeros.
bool pack_panel(void *context, int64_t panel, int) {
  const Packing &packing = *static_cast<const Packing *>(context);
  const vaelens_kernel &kernel = *packing.kernel;
  const bool winograd = uses_winograd(kernel), early = winograd && transforms_early(kernel);
  const int64_t taps = int64_t(kernel.height) * kernel.width, in_channels = kernel.in_channels;
  // Only the last panel may be narrower.
  float *to = packing.packed + panel * (early ? transformed_values(kernel) : taps) * in_channels * kPanel;
  const int64_t width = Panels(kernel.out_channels).width(panel);
  const int64_t channels = smaller(width, kernel.out_channels - panel * kPanel);
  for (int64_t i = 0; i < in_channels; ++i) {
    float nine[9 * kPanel];
    float *at = early ? nine : winograd ? to + i * taps * width : to + i * width;
    const int64_t tap_step = winograd ? width : in_channels * width;
    const float *from = packing.weights + (panel * kPanel * in_channels + i) * taps;
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t o = 0; o < width; ++o)
        at[tap * tap_step + o] = o < channels ? from[o * in_channels * taps + tap] : 0.0f;
    if (!early) continue;
    for (int64_t part = 0; part < width; part += kLanes) {
      float *values = to + i * width + part;
      const int64_t step = in_channels * width;
      if (!in_phases(kernel)) {
        transform_filter<3>(nine + part, width, {0, 0}, values, step);
        continue;
      }
      for (int phase = 0; phase < 4; ++phase, values += Tile<2>::frequencies * step)
        transform_filter<2>(nine + part, width, {phase / 2, phase % 2}, values, step);
    }
  }
  return true;
}

int pack(const vaelens_kernel &kernel, const float *weights, int threads, void *packed) {
  Packing packing = {&kernel, weights, static_cast<float *>(packed)};
  parallel(threads, Panels(kernel.out_channels).count(), pack_panel, &packing);
  return VAELENS_OK;
}

int64_t scratch_bytes(const vaelens_kernel &kernel, int64_t, int64_t out_width) {
  if (out_width <= 0) return 0;
  if (kernel.height == 1 && kernel.width == 1 && out_width > kMostColumns) {
    // As it is, or as rows of pixels and what remains: see `multiply_pixels`.
    const int64_t rest = larger(1, out_width % kMostColumns);
    const int64_t pixels = larger(DirectPlan(kernel, kMostColumns).bytes(), DirectPlan(kernel, rest).bytes());
    return larger(DirectPlan(kernel, out_width).bytes(), pixels);
  }
  return uses_winograd(kernel) ? WinogradPlan(kernel, out_width).bytes() : DirectPlan(kernel, out_width).bytes();
}

int32_t row_alignment(const vaelens_kernel &kernel) {
  return !uses_winograd(kernel) ? 1 : in_phases(kernel) ? 2 * kOut : kOut;
}

// Items of at most `most` rows, as many on each thread. What a row becomes doesn't depend on the item it is in.
int64_t item_count(int64_t rows, int64_t most, int threads) {
  const int64_t rounds = quotient_up(rows, most * threads);
  return smaller(rows, rounds * threads);
}

int convolve(const vaelens_kernel &kernel, const vaelens_strip &strip);

// A product of many pixels with a matrix, as in attention, whatever rows they come in: pixels of a 1x1 kernel don't
// touch each other. As rows of one block of columns they are shared among the threads.
int multiply_pixels(const vaelens_kernel &kernel, vaelens_strip strip) {
  const int64_t pixels = strip.out_rows * strip.out_width, whole = pixels / kMostColumns;
  strip.input += (strip.out_first - strip.in_first) * strip.in_width * strip.in_stride;
  strip.in_first = strip.out_first = 0;
  const int64_t widths[] = {kMostColumns, pixels % kMostColumns};
  for (int64_t width : widths) {
    strip.in_width = strip.out_width = width;
    strip.in_rows = strip.in_height = strip.out_rows = width == kMostColumns ? whole : 1;
    const int result = convolve(kernel, strip);
    if (result != VAELENS_OK) return result;
    const int64_t done = strip.out_rows * width;
    strip.input += done * strip.in_stride;
    strip.output += done * kernel.out_channels;
    if (strip.residual) strip.residual += done * kernel.out_channels;
  }
  return VAELENS_OK;
}

int convolve(const vaelens_kernel &kernel, const vaelens_strip &strip) {
  if (strip.out_rows <= 0 || strip.out_width <= 0) return VAELENS_OK;
  const bool pointwise = kernel.height == 1 && kernel.width == 1 && kernel.stride == 1 && kernel.upsample == 1 &&
                         kernel.pad_top == 0 && kernel.pad_left == 0 && strip.in_width == strip.out_width;
  if (pointwise && !strip.moments && strip.out_width > kMostColumns) return multiply_pixels(kernel, strip);
  const int threads = strip.threads > 1 ? strip.threads : 1;
  bool done;
  if (uses_winograd(kernel)) {
    const WinogradPlan plan(kernel, strip.out_width);
    WinogradWork work = {&kernel, &strip, &plan,
                         item_count(plan.tile_rows_of(strip.out_rows), plan.tile_rows, threads)};
    done = parallel(threads, work.items, plan.step == 2 ? winograd_item<2> : winograd_item<3>, &work);
  } else {
    const DirectPlan plan(kernel, strip.out_width);
    // Where there are fewer rows than threads, these also share the output channels.
    const int64_t items = item_count(strip.out_rows, plan.rows, threads);
    const int64_t groups = smaller(Panels(kernel.out_channels).count(), quotient_up(threads, items));
    DirectWork work = {&kernel, &strip, &plan, items, groups};
    done = parallel(threads, items * groups, direct_item, &work);
  }
  return done ? VAELENS_OK : VAELENS_NO_MEMORY;
}

}  // namespace

extern const Path VAELENS_PATH = {packed_bytes, pack, scratch_bytes, row_alignment, convolve};

}  // namespace vaelens
