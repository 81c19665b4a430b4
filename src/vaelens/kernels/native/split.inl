// A convolution as sums of matrix products on tiles of bf16.
//
// A band of output rows is cut into windows of columns. For each, the input is loaded, normalised and split once, into
// planes that fit the second-level cache; then each block of 16 output channels is accumulated over all input channels
// and taps for some pixels at a time, in the same order wherever a pixel lies.

// Every processor with AMX has 2 MB of second-level cache for each core.
constexpr int64_t kPlaneBytes = 768 * 1024;   // of a window
constexpr int64_t kCacheBytes = 1792 * 1024;  // of two windows and the weights of a block of output channels

// The size of a window in output pixels (before enlarging), and what it takes.
struct Layout {
  int rows, columns;
  int64_t plane_values;  // of one block of input channels
  int buffers;           // 2: the next window is loaded while this one is multiplied
  int64_t bytes;         // of scratch
};

inline int64_t plane_pixels(const vaelens_kernel &k, const Taps &taps, int64_t rows, int64_t columns) {
  return ((rows - 1) * k.stride + taps.top + taps.bottom + 1) * ((columns - 1) * k.stride + taps.left + taps.right + 1);
}

// The columns depend on the shapes alone, as the blocks of the moments do; the rows only decide who computes what.
inline Layout layout(const vaelens_kernel &k, const Taps &taps, int64_t width, int64_t rows, int threads) {
  const int64_t pixel_bytes = in_blocks(k) * kBlock * halves(k) * 2;
  Layout found = {16, 64, 0, 1, 0};
  if (plane_pixels(k, taps, 8, 64) * pixel_bytes > kPlaneBytes) found.columns = 32;
  if (k.stride > 1) found.columns = kPixels;  // runs don't cross rows then, and shorter ones would be filled with junk
  if (width < found.columns) found.columns = static_cast<int>(width);
  while (found.rows > 1 && plane_pixels(k, taps, found.rows, found.columns) * pixel_bytes > kPlaneBytes)
    found.rows /= 2;
  while (found.rows > 4 && found.rows * 2 * threads > rows) found.rows /= 2;
  // Tiles read whole runs of pixels, also where fewer are left: the planes end later by as many.
  found.plane_values = (plane_pixels(k, taps, found.rows, found.columns) + kPixels * k.stride) * kBlock;
  const int64_t planes = found.plane_values * in_blocks(k) * halves(k) * 2;
  const int64_t weights = taps.total * in_blocks(k) * halves(k) * kTile * 2;
  found.buffers = 2 * planes + weights <= kCacheBytes ? 2 : 1;
  found.bytes = found.buffers * planes;
  return found;
}

#include "split_writing.inl"

// A thread's part of a strip: several bands, one window after the other, with loads and writes among the products.
template <bool normalised, int activation, bool split>
class Worker {
 public:
  Worker(const Convolution &all, uint16_t *planes)
      : all_(all),
        in_blocks_(in_blocks(all.kernel)),
        loading_(all.strip, all.kernel.in_channels, all.norm, all.in_pixels),
        planes_(planes),
        depth_(depth(all.taps)),
        depths_((in_blocks_ + depth_ - 1) / depth_) {}

  void run(int64_t first_band, int64_t end_band, int64_t first_block, int64_t end_block) {
    Tile tile = {};
    bool more = set_tile(tile, first_band, 0, end_band);
    int buffer = 0;
    begin_loading(tile, buffer);
    while (more) {
      loading_.finish();
      __asm__ volatile("" ::: "memory");  // GCC's tile loads don't say that they read memory
      const Planes planes = planes_of(tile, buffer);
      Tile next = {};
      const int64_t band = (tile.top - all_.first) / all_.layout.rows;
      more = tile.left + all_.layout.columns < all_.width
                 ? set_tile(next, band, tile.left + all_.layout.columns, end_band)
                 : set_tile(next, band + 1, 0, end_band);
      if (more && all_.layout.buffers == 2) begin_loading(next, 1 - buffer);
      // The next window is loaded by the time that this one's products are made.
      const int64_t products = (end_block - first_block) * all_.taps.count * runs_of(tile, planes).count * depths_;
      loads_ = more && all_.layout.buffers == 2 ? (loading_.parts() + products - 1) / products : 0;
      for (int64_t block = first_block; block < end_block; ++block) multiply(tile, planes, block);
      finish_block();
      if (all_.layout.buffers == 2)
        buffer = 1 - buffer;
      else if (more)
        begin_loading(next, 0);
      tile = next;
    }
  }

 private:
  static constexpr int kHalves = split ? 2 : 1;
  // With the weights of depth_ blocks, and the input of a run, the sums of so many runs fit the first-level cache.
  static constexpr int kGroup = split ? 4 : 8;

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

  bool set_tile(Tile &tile, int64_t band, int64_t left, int64_t end_band) const {
    if (band >= end_band) return false;
    tile.top = all_.first + band * all_.layout.rows, tile.left = left;
    const int64_t rows = all_.first + all_.rows - tile.top, columns = all_.width - left;
    tile.rows = static_cast<int>(rows < all_.layout.rows ? rows : all_.layout.rows);
    tile.columns = static_cast<int>(columns < all_.layout.columns ? columns : all_.layout.columns);
    return true;
  }

  Window window_of(const Tile &tile) const {
    const int stride = all_.kernel.stride;
    const Taps &taps = all_.taps;
    return {tile.top * stride - taps.top, tile.left * stride - taps.left,
            (tile.rows - 1) * stride + taps.top + taps.bottom + 1,
            (tile.columns - 1) * stride + taps.left + taps.right + 1};
  }

  Planes planes_of(const Tile &tile, int buffer) const {
    const int64_t values = in_blocks_ * all_.layout.plane_values;
    uint16_t *high = planes_ + buffer * values * kHalves;
    return {high, high + (split ? values : 0), all_.layout.plane_values, window_of(tile).columns};
  }

  void begin_loading(const Tile &tile, int buffer) { loading_.begin(window_of(tile), planes_of(tile, buffer)); }

  // Writes the sums that are left, and takes the moments of a block that is whole then.
  void finish_block() {
    while (written_ < ended_.count) write_next();
    if (written_block_ >= 0 && all_.strip.moments) add_moments(all_, written_tile_, written_block_);
    written_block_ = -1;
  }

  void write_next() {
    write(all_, ended_.runs[written_], sums_[1 - begun_][written_]);
    ++written_;
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
    const int stride = all_.kernel.stride;
    const Runs runs = runs_of(tile, planes);
    for (int p = 0; p < all_.taps.count; ++p) {
      const Phase &phase = all_.taps.phases[p];
      int64_t offsets[kMostTaps];
      for (int t = 0; t < phase.taps; ++t)
        offsets[t] =
            (static_cast<int64_t>(phase.dy[t] + all_.taps.top) * planes.columns + phase.dx[t] + all_.taps.left) *
            kBlock;
      for (int run = 0; run < runs.count; run += kGroup) {
        Group group = {};
        for (; group.count < kGroup && run + group.count < runs.count; ++group.count) {
          const int place = (run + group.count) * kPixels;
          const int64_t row = place / runs.row_length, column = place % runs.row_length;
          group.runs[group.count] = Run(phase, tile, block, place, runs.row_length);
          group.origins[group.count] = (row * planes.columns + column) * stride * kBlock;
        }
        accumulate(group, phase, offsets, planes, weights, p == 0 && run == 0);
      }
      weights += phase.taps * in_blocks_ * kHalves * kTile;
    }
    written_block_ = block, written_tile_ = tile;
  }

  // The products of a group of runs, a few blocks of input channels at a time: their weights are read from the
  // second-level cache once for the group, and the sums wait in the first-level one. Meanwhile those of the group
  // before are written, and a part of the next window is loaded.
  void accumulate(const Group &group, const Phase &phase, const int64_t *offsets, const Planes &planes,
                  const uint16_t *weights, bool first_of_block) {
    const int64_t distance = all_.kernel.stride * kBlock;
    for (int64_t in = 0; in < in_blocks_; in += depth_) {
      const int64_t end = in + depth_ < in_blocks_ ? in + depth_ : in_blocks_;
      for (int i = 0; i < group.count; ++i) {
        const uint16_t *at = weights + in * phase.taps * kHalves * kTile;
        if (in == 0)
          accumulators_.clear();
        else
          accumulators_.read(sums_[begun_][i]);
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
        accumulators_.write(sums_[begun_][i]);
        if (end == in_blocks_) fetch(all_, group.runs[i]);
        if (in == 0 && written_ < ended_.count) write_next();
        loading_.load_parts(loads_);
      }
      if (in == 0) {
        while (written_ < ended_.count) write_next();
        if (first_of_block) finish_block();
      }
    }
    ended_ = group, written_ = 0, begun_ = 1 - begun_;
  }

  const Convolution &all_;
  const int64_t in_blocks_;
  Loading<normalised, activation, split> loading_;
  uint16_t *planes_;
  Accumulators accumulators_;
  const int64_t depth_, depths_;  // blocks of input channels at a time, and how often
  int64_t loads_ = 0;             // parts of the next window that are loaded at a time
  alignas(64) float sums_[2][kGroup][kPixels * kOutBlock];
  int begun_ = 0;  // which of the two are accumulated; the other ones are written
  Group ended_ = {};
  int written_ = 0;  // of its runs
  int64_t written_block_ = -1;
  Tile written_tile_ = {};
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
  return layout(kernel, taps, out_width / kernel.upsample, INT64_MAX / 4, 1).bytes;
}

int32_t row_alignment(const vaelens_kernel &) { return 1; }

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
  const int up = kernel.upsample, threads = strip.threads < 1 ? 1 : strip.threads;
  all.first = strip.out_first / up;
  all.rows = (strip.out_first + strip.out_rows + up - 1) / up - all.first;
  all.width = (strip.out_width + up - 1) / up;
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
