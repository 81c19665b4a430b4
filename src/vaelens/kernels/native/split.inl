// A convolution as sums of matrix products on tiles of bf16.
//
// A band of output rows is cut into windows of columns. For each, the input is loaded, normalised and split once, into
// planes that fit the second-level cache; then each block of 16 output channels is accumulated over all input channels
// and taps for some pixels at a time, in the same order wherever a pixel lies.

constexpr int64_t kPlaneBytes = 768 * 1024;  // of a window: the second-level cache of an AMX processor's core has 2 MB

// The size of a window in phases' pixels, and what it takes.
struct Layout {
  int rows, columns;
  int64_t plane_values;  // of one block of input channels
  int64_t bytes;         // of scratch
};

inline int64_t plane_pixels(const vaelens_kernel &k, const Taps &taps, int64_t rows, int64_t columns) {
  return plane_rows(k, taps, rows) * ((columns - 1) * k.stride + taps.left + taps.right + 1);
}

// The columns depend on the shapes alone, as the blocks of the moments do; the rows only decide who computes what.
inline Layout layout(const vaelens_kernel &k, const Taps &taps, int64_t width, int64_t rows, int threads) {
  const int64_t pixel_bytes = in_blocks(k) * kBlock * halves(k) * 2;
  const int fewest = taps.rows == Rows::pairs ? 2 : 4;
  Layout found = {4 * fewest, 64, 0, 0};
  if (plane_pixels(k, taps, 2 * fewest, 64) * pixel_bytes > kPlaneBytes) found.columns = 32;
  if (k.stride > 1) found.columns = kPixels;  // runs don't cross rows then, and shorter ones would be filled with junk
  if (width < found.columns) found.columns = static_cast<int>(width);
  while (found.rows > 1 && plane_pixels(k, taps, found.rows, found.columns) * pixel_bytes > kPlaneBytes)
    found.rows /= 2;
  while (found.rows > fewest && found.rows * 2 * threads > rows) found.rows /= 2;
  // Tiles read whole runs of pixels, also where fewer are left: the planes end later by as many.
  found.plane_values = (plane_pixels(k, taps, found.rows, found.columns) + kPixels * k.stride) * kBlock;
  found.bytes = found.plane_values * in_blocks(k) * halves(k) * 2;
  return found;
}

#include "split_writing.inl"

// A thread's part of a strip: several bands, one window after the other.
//
// Loading a window, multiplying and writing follow each other. Spreading the loads and writes among the products gains
// nothing: where the matrix unit is busy, its products are what takes the time.
template <bool normalised, int activation, bool split>
class Worker {
 public:
  Worker(const Convolution &all, uint16_t *planes)
      : all_(all),
        in_blocks_(in_blocks(all.kernel)),
        loading_(all.strip, all.kernel.in_channels, all.norm, all.in_pixels, all.taps.rows),
        planes_(planes),
        depth_(depth(all.taps)) {}

  void run(int64_t first_band, int64_t end_band, int64_t first_block, int64_t end_block) {
    for (int64_t band = first_band; band < end_band; ++band)
      for (int64_t left = 0; left < all_.width; left += all_.layout.columns) {
        const Tile tile = tile_of(band, left);
        const Planes planes = planes_of(tile);
        loading_.load_window(window_of(tile), planes);
        __asm__ volatile("" ::: "memory");  // GCC's tile loads don't say that they read memory
        for (int64_t block = first_block; block < end_block; ++block) {
          multiply(tile, planes, block);
          if (all_.strip.moments) add_moments(all_, tile, block);
        }
      }
  }

 private:
  static constexpr int kHalves = split ? 2 : 1;
  // With the weights of depth_ blocks, and the input of a run, the sums of so many runs fit the first-level cache.
  static constexpr int kGroup = split ? 4 : 8;
  static constexpr int kSums = split ? 4 : 3;  // at most

  struct Group {
    int count;
    Run runs[kGroup];
    int64_t origins[kGroup];  // in the planes
  };

  // About nine taps of 32 channels: fewer would read and write the sums too often.
  static int64_t depth(const Taps &taps) {
    const int phase = taps.phases[0].taps;
    return phase >= 9 ? 1 : (8 + phase) / phase;
  }

  Tile tile_of(int64_t band, int64_t left) const {
    const int64_t top = all_.first + band * all_.layout.rows;
    const int64_t rows = all_.first + all_.rows - top, columns = all_.width - left;
    return {top, left, static_cast<int>(rows < all_.layout.rows ? rows : all_.layout.rows),
            static_cast<int>(columns < all_.layout.columns ? columns : all_.layout.columns)};
  }

  Window window_of(const Tile &tile) const {
    const int stride = all_.kernel.stride;
    const Taps &taps = all_.taps;
    if (taps.rows == Rows::pairs)
      return {2 * tile.top - 1, tile.left - taps.left, 2 * tile.rows + 2, tile.columns + taps.left + taps.right};
    return {tile.top * stride - taps.top, tile.left * stride - taps.left,
            (tile.rows - 1) * stride + taps.top + taps.bottom + 1,
            (tile.columns - 1) * stride + taps.left + taps.right + 1};
  }

  Planes planes_of(const Tile &tile) const {
    uint16_t *low = planes_ + (split ? in_blocks_ * all_.layout.plane_values : 0);
    return {planes_, low, all_.layout.plane_values, window_of(tile).columns};
  }

  struct Runs {
    int count, row_length;
  };

  // Without a stride, pixels may be counted along the planes' rows and across their ends: narrow tiles fill the runs.
  Runs runs_of(const Tile &tile, const Planes &planes) const {
    const int along = ((tile.rows - 1) * planes.columns + tile.columns + kPixels - 1) / kPixels;
    const int per_row = (tile.columns + kPixels - 1) / kPixels;
    if (all_.kernel.stride == 1 && along < per_row * tile.rows) return {along, planes.columns};
    return {per_row * tile.rows, per_row * kPixels};
  }

  // One block of output channels of a whole tile.
  void multiply(const Tile &tile, const Planes &planes, int64_t block) {
    const uint16_t *weights =
        static_cast<const uint16_t *>(all_.strip.weights) + block * all_.taps.total * in_blocks_ * kHalves * kTile;
    const int stride = all_.kernel.stride, together = all_.taps.sums;
    const Runs runs = runs_of(tile, planes);
    for (int p = 0; p < all_.taps.count; p += together) {
      const Phase *phases = all_.taps.phases + p;
      const int64_t values = phases->taps * in_blocks_ * kHalves * kTile;  // of a phase's weights
      for (int run = 0; run < runs.count; run += kGroup) {
        Group group = {};
        for (; group.count < kGroup && run + group.count < runs.count; ++group.count) {
          const int place = (run + group.count) * kPixels;
          const int64_t row = place / runs.row_length, column = place % runs.row_length;
          group.runs[group.count] = Run(tile, block, place, runs.row_length);
          group.origins[group.count] = (row * planes.columns + column) * stride * kBlock;
        }
        for (int n = 0; n < together; ++n)
          accumulate(group, phases[n], first_row(all_.taps, phases[n], tile.rows), planes, weights + n * values);
        for (int i = 0; i < group.count; ++i) write_run(group.runs[i], *phases, i);
      }
      weights += together * values;
    }
  }

  // The products of a group of runs with the taps of one phase, a few blocks of input channels at a time: their weights
  // are read from the second-level cache once for the group, and the sums wait in the first-level one.
  void accumulate(const Group &group, const Phase &phase, int64_t row, const Planes &planes, const uint16_t *weights) {
    int64_t offsets[kMostTaps];
    for (int t = 0; t < phase.taps; ++t)
      offsets[t] = ((row + phase.rows[t]) * planes.columns + phase.columns[t]) * kBlock;
    const int64_t distance = all_.kernel.stride * kBlock;
    for (int64_t in = 0; in < in_blocks_; in += depth_) {
      const int64_t end = in + depth_ < in_blocks_ ? in + depth_ : in_blocks_;
      for (int i = 0; i < group.count; ++i) {
        float *sums = sums_[phase.sum][i];
        const uint16_t *at = weights + in * phase.taps * kHalves * kTile;
        if (in == 0)
          accumulators_.clear();
        else
          accumulators_.read(sums);
        for (int64_t block = in; block < end; ++block) {
          const uint16_t *high = planes.high + block * planes.block_stride + group.origins[i];
          const uint16_t *low = planes.low + block * planes.block_stride + group.origins[i];
          for (int t = 0; t < phase.taps; ++t, at += kHalves * kTile) {
            if (split)
              accumulators_.add_split(high + offsets[t], low + offsets[t], distance, at);
            else
              accumulators_.add_bf16(high + offsets[t], distance, at);
          }
        }
        accumulators_.write(sums);
        if (end == in_blocks_) fetch_outputs(group.runs[i], phase);
      }
    }
  }

  void write_run(const Run &run, const Phase &phase, int i) const {
    const auto sum = [this, i](int number, int pixel) { return load(sums_[number][i] + pixel * kOutBlock); };
    if (split && all_.taps.rows == Rows::pairs) {
      write(all_, run, 0, 0, [&](int pixel) { return sum(0, pixel) + sum(1, pixel) + sum(2, pixel); });
      write(all_, run, 1, 0, [&](int pixel) { return sum(1, pixel) - sum(2, pixel) - sum(3, pixel); });
    } else if (all_.taps.rows == Rows::enlarged) {
      write(all_, run, 0, phase.column, [&](int pixel) { return sum(0, pixel) + sum(1, pixel); });
      write(all_, run, 1, phase.column, [&](int pixel) { return sum(0, pixel) + sum(2, pixel); });
    } else {
      write(all_, run, 0, 0, [&](int pixel) { return sum(0, pixel); });
    }
  }

  // Of each of the rows, while one of the first sums is made.
  void fetch_outputs(const Run &run, const Phase &phase) const {
    if (phase.sum < all_.taps.row_step) fetch(all_, run, phase.sum, phase.column);
  }

  const Convolution &all_;
  const int64_t in_blocks_;
  Loading<normalised, activation, split> loading_;
  uint16_t *planes_;
  Accumulators accumulators_;
  const int64_t depth_;  // blocks of input channels at a time
  alignas(64) float sums_[kSums][kGroup][kPixels * kOutBlock];
};

template <bool normalised, int activation, bool split>
bool convolve_part(void *context, int64_t item, int) {
  const Convolution &all = *static_cast<const Convolution *>(context);
  uint16_t *planes = static_cast<uint16_t *>(scratch(all.layout.bytes));
  if (!planes) return false;
  const int64_t part = item / all.groups, group = item % all.groups, last = out_blocks(all.kernel);
  const int64_t end = (group + 1) * all.per_group;
  Worker<normalised, activation, split> worker(all, planes);
  begin_tiles();
  worker.run(part * all.bands / all.parts, (part + 1) * all.bands / all.parts, group * all.per_group,
             end < last ? end : last);
  end_tiles();
  return true;
}

template <bool normalised, bool split>
Task task_of_activation(int activation) {
  return activation == VAELENS_SILU   ? convolve_part<normalised, VAELENS_SILU, split>
         : activation == VAELENS_RELU ? convolve_part<normalised, VAELENS_RELU, split>
                                      : convolve_part<normalised, VAELENS_LINEAR, split>;
}

Task task(bool normalised, int activation, bool split) {
  if (normalised)
    return split ? task_of_activation<true, true>(activation) : task_of_activation<true, false>(activation);
  return split ? task_of_activation<false, true>(activation) : task_of_activation<false, false>(activation);
}

// The caller's normalisation and bias, padded with zeros to whole blocks. NULL where memory runs out.
float *padded_vectors(const vaelens_kernel &k, const vaelens_strip &strip) {
  const int64_t in = in_blocks(k) * kBlock, out = out_blocks(k) * kOutBlock;
  float *padded = static_cast<float *>(calloc(static_cast<size_t>(3 * in + out), sizeof(float)));
  if (!padded) return nullptr;
  if (strip.mean) {
    memcpy(padded, strip.mean, k.in_channels * sizeof(float));
    memcpy(padded + in, strip.scale, k.in_channels * sizeof(float));
    memcpy(padded + 2 * in, strip.shift, k.in_channels * sizeof(float));
  }
  if (strip.bias) memcpy(padded + 3 * in, strip.bias, k.out_channels * sizeof(float));
  return padded;
}

int64_t scratch_bytes(const vaelens_kernel &kernel, int64_t, int64_t out_width) {
  Taps taps;
  set_taps(kernel, taps);
  return layout(kernel, taps, out_width / taps.column_step, INT64_MAX / 4, 1).bytes;
}

int32_t row_alignment(const vaelens_kernel &kernel) { return rows_of(kernel) == Rows::pairs ? 2 : 1; }

int convolve(const vaelens_kernel &kernel, const vaelens_strip &original) {
  vaelens_strip strip = original;
  int64_t in_pixels = strip.in_rows * strip.in_width, out_pixels = strip.out_rows * strip.out_width;
  if (out_pixels <= 0) return VAELENS_OK;
  const bool pointwise = kernel.height == 1 && kernel.width == 1 && kernel.stride == 1 && kernel.upsample == 1 &&
                         kernel.pad_top == 0 && kernel.pad_left == 0 && strip.in_width == strip.out_width;
  if (pointwise && !strip.moments) {
    // Pixels don't touch each other: any number is a map of full windows.
    strip.input += (strip.out_first - strip.in_first) * strip.in_width * strip.in_stride;
    in_pixels = out_pixels;
    strip.in_first = strip.out_first = 0;
    strip.in_width = strip.out_width = 64;
    strip.in_rows = strip.in_height = strip.out_rows = (out_pixels + 63) / 64;
  }
  float *padded = padded_vectors(kernel, strip);
  if (!padded) return VAELENS_NO_MEMORY;
  const int64_t in = in_blocks(kernel) * kBlock, all_blocks = out_blocks(kernel);
  Convolution all = {
      kernel, strip, {}, {}, {nullptr, nullptr, nullptr}, padded + 3 * in, 0, 0, 0, in_pixels, out_pixels, 0, 0, 1, 0};
  if (strip.mean) all.norm = {padded, padded + in, padded + 2 * in};
  set_taps(kernel, all.taps);
  const int row_step = all.taps.row_step, column_step = all.taps.column_step;
  const int threads = strip.threads < 1 ? 1 : strip.threads;
  all.first = strip.out_first / row_step;
  all.rows = (strip.out_first + strip.out_rows + row_step - 1) / row_step - all.first;
  all.width = (strip.out_width + column_step - 1) / column_step;
  all.layout = layout(kernel, all.taps, all.width, all.rows, threads);
  all.bands = (all.rows + all.layout.rows - 1) / all.layout.rows;
  // Where there are fewer bands than would keep all threads busy, they also share the output channels.
  const int64_t wanted = all.bands >= 2 * threads ? 1 : (2 * threads + all.bands - 1) / all.bands;
  all.per_group = threads == 1 || wanted == 1 ? all_blocks : (all_blocks + wanted - 1) / wanted;
  all.groups = (all_blocks + all.per_group - 1) / all.per_group;
  all.parts = all.bands < 6 * threads ? all.bands : 6 * threads;
  const Task work = task(strip.mean != nullptr, strip.activation, kernel.arithmetic == VAELENS_SPLIT_BF16);
  const bool done = parallel(threads, all.parts * all.groups, work, &all);
  free(padded);
  return done ? VAELENS_OK : VAELENS_NO_MEMORY;
}
