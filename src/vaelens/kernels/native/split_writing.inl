// What becomes of the products' sums: output pixels, and the moments of their rows.

struct Convolution {
  const vaelens_kernel &kernel;
  const vaelens_strip &strip;
  Taps taps;
  Layout layout;
  Normalisation norm;
  const float *bias;              // padded to whole blocks
  int64_t first, rows, width;     // of the output in phases' pixels
  int64_t in_pixels, out_pixels;  // that the strip's memory holds
  int64_t bands, parts;           // of rows; of the work, several bands each
  int64_t groups, per_group;      // of blocks of output channels, and the blocks of one
};

struct Tile {  // of the output, in phases' pixels
  int64_t top, left;
  int rows, columns;
};

// The output pixels of a run: of those that are accumulated together. They are counted along the planes' rows, so that
// a run may cross into the next row; those between rows are junk.
class Run {
 public:
  Run() = default;
  Run(const Tile &tile, int64_t block, int place, int row_length)
      : tile_(tile), block_(block), row_length_(row_length), row_(place / row_length), column_(place % row_length) {}

  int64_t block() const { return block_; }

  // Calls each(pixel, offset) for the pixels of a phase that the strip asks for: `offset` is where the pixel's block
  // begins in the output, `pixel` counts from the run's first.
  template <class Each>
  void for_pixels(const Convolution &all, int phase_row, int phase_column, const Each &each) const {
    const vaelens_strip &strip = all.strip;
    const int up = all.taps.column_step;
    const int64_t channels = all.kernel.out_channels;
    int row = row_, column = column_;
    for (int pixel = 0; pixel < kPixels && row < tile_.rows; ++row, column = 0) {
      const int count = kPixels - pixel < row_length_ - column ? kPixels - pixel : row_length_ - column;
      const int64_t y = (tile_.top + row) * all.taps.row_step + phase_row - strip.out_first;
      const int64_t x = (tile_.left + column) * up + phase_column, index = y * strip.out_width + x;
      const int64_t left = (strip.out_width - x + up - 1) / up, rest = (all.out_pixels - index + up - 1) / up;
      int64_t wanted = tile_.columns - column < count ? tile_.columns - column : count;
      wanted = left < wanted ? left : wanted;
      wanted = rest < wanted ? rest : wanted;
      if (y >= 0 && y < strip.out_rows)
        for (int i = 0; i < wanted; ++i) each(pixel + i, (index + i * up) * channels + block_ * kOutBlock);
      pixel += count;
    }
  }

 private:
  Tile tile_ = {};
  int64_t block_ = 0;
  int row_length_ = 1, row_ = 0, column_ = 0;
};

// Brings a run's places in memory nearer.
inline void fetch(const Convolution &all, Run run, int row, int column) {
  const float *output = all.strip.output, *residual = all.strip.residual == output ? nullptr : all.strip.residual;
  run.for_pixels(all, row, column, [=](int, int64_t offset) {
    prefetch_output(output + offset);
    if (residual) prefetch_output(residual + offset);
  });
}

// Adds bias and residual to a run's values, value(pixel), and writes them.
template <class Value>
void write(const Convolution &all, Run run, int row, int column, const Value &value) {
  const Vector bias = load(all.bias + run.block() * kOutBlock);
  const int64_t left = all.kernel.out_channels - run.block() * kOutBlock;
  float *output = all.strip.output;
  const float *residual = all.strip.residual;
  if (left < kOutBlock)
    run.for_pixels(all, row, column, [=](int pixel, int64_t offset) {
      const Vector sum = value(pixel) + bias;
      for (int n = 0; n < left; ++n) output[offset + n] = residual ? sum[n] + residual[offset + n] : sum[n];
    });
  else if (residual)
    run.for_pixels(all, row, column, [=](int pixel, int64_t offset) {
      store(output + offset, value(pixel) + bias + load(residual + offset));
    });
  else
    run.for_pixels(all, row, column, [=](int pixel, int64_t offset) { store(output + offset, value(pixel) + bias); });
}

// Merges the tile's columns of one block into the moments of its rows (Chan, Golub, LeVeque 1979). Within a row's piece
// sums are taken about its first value, in fp32; pieces are merged in double precision from left to right.
inline void add_moments(const Convolution &all, const Tile &tile, int64_t block) {
  const vaelens_strip &strip = all.strip;
  const int channels = all.kernel.out_channels, up = all.taps.column_step;
  const int64_t begin = tile.left * up, rest = strip.out_width - begin;
  const int64_t count = tile.columns * up < rest ? tile.columns * up : rest;
  for (int r = 0; r < tile.rows * all.taps.row_step; ++r) {
    const int64_t y = tile.top * all.taps.row_step + r - strip.out_first;
    if (y < 0 || y >= strip.out_rows) continue;
    const int64_t c = block * kOutBlock;
    const int lanes = channels - c < kOutBlock ? static_cast<int>(channels - c) : kOutBlock;
    const float *values = strip.output + (y * strip.out_width + begin) * channels + c;
    alignas(64) float first[kOutBlock] = {}, sum[kOutBlock] = {}, square[kOutBlock] = {};
    if (lanes == kOutBlock) {
      const Vector origin = load(values);
      Vector s = {}, q = {};
      for (int64_t x = 0; x < count; ++x) {
        const Vector difference = load(values + x * channels) - origin;
        s += difference, q += difference * difference;
      }
      store(first, origin), store(sum, s), store(square, q);
    } else {
      for (int n = 0; n < lanes; ++n) {
        first[n] = values[n];
        for (int64_t x = 0; x < count; ++x) {
          const float difference = values[x * channels + n] - first[n];
          sum[n] += difference, square[n] += difference * difference;
        }
      }
    }
    double *moments = strip.moments + (y * channels + c) * 2;
    const double before = static_cast<double>(begin), more = static_cast<double>(count), total = before + more;
    for (int n = 0; n < lanes; ++n) {
      const double mean = first[n] + sum[n] / more, spread = square[n] - static_cast<double>(sum[n]) * sum[n] / more;
      const double m2 = spread > 0 ? spread : spread <= 0 ? 0 : spread;  // NaN stays NaN
      double *moment = moments + 2 * n;
      if (begin == 0) {
        moment[0] = mean, moment[1] = m2;
      } else {
        const double difference = mean - moment[0];
        moment[0] += difference * more / total;
        moment[1] += m2 + difference * difference * before * more / total;
      }
    }
  }
}
