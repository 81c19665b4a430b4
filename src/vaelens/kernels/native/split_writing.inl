// What becomes of the products' sums: output pixels, and the moments of their rows.

struct Convolution {
  const vaelens_kernel &kernel;
  const vaelens_strip &strip;
  Taps taps;
  Layout layout;
  Normalisation norm;
  const float *bias;              // padded to whole blocks
  int64_t first, rows, width;     // of the output before enlarging
  int64_t in_pixels, out_pixels;  // that the strip's memory holds
  int64_t bands, parts;           // of rows; of the work, several bands each
  int64_t groups, per_group;      // of blocks of output channels, and the blocks of one
};

struct Tile {  // of the output, before enlarging
  int64_t top, left;
  int rows, columns;
};

// The output pixels of a run: of those that are accumulated together. They are counted along the planes' rows, so that
// a run may cross into the next row; those between rows are junk.
class Run {
 public:
  Run() = default;
  Run(const Phase &phase, const Tile &tile, int64_t block, int place, int row_length)
      : phase_(&phase),
        tile_(tile),
        block_(block),
        row_length_(row_length),
        row_(place / row_length),
        column_(place % row_length) {}

  int64_t block() const { return block_; }

  // Calls each(pixel, offset) for the next `pixels` that the strip asks for: `offset` is where the pixel's block begins
  // in the output, `pixel` counts from the run's first.
  template <class Each>
  void for_pixels(const Convolution &all, int pixels, const Each &each) {
    const vaelens_strip &strip = all.strip;
    const int up = all.kernel.upsample;
    const int64_t channels = all.kernel.out_channels;
    for (const int end = pixel_ + pixels; pixel_ < end && row_ < tile_.rows;) {
      const int count = end - pixel_ < row_length_ - column_ ? end - pixel_ : row_length_ - column_;
      const int64_t y = (tile_.top + row_) * up + phase_->row - strip.out_first;
      const int64_t x = (tile_.left + column_) * up + phase_->column, index = y * strip.out_width + x;
      const int64_t left = (strip.out_width - x + up - 1) / up, rest = (all.out_pixels - index + up - 1) / up;
      int64_t wanted = tile_.columns - column_ < count ? tile_.columns - column_ : count;
      wanted = left < wanted ? left : wanted;
      wanted = rest < wanted ? rest : wanted;
      if (y >= 0 && y < strip.out_rows)
        for (int i = 0; i < wanted; ++i) each(pixel_ + i, (index + i * up) * channels + block_ * kOutBlock);
      pixel_ += count, column_ += count;
      if (column_ == row_length_) column_ = 0, ++row_;
    }
  }

 private:
  const Phase *phase_ = nullptr;
  Tile tile_ = {};
  int64_t block_ = 0;
  int row_length_ = 1, row_ = 0, column_ = 0, pixel_ = 0;
};

// Adds bias and residual to the sums of a run and writes them, once the products of the next run have begun. Its places
// in memory are fetched while its own products are made.
class Writing {
 public:
  explicit Writing(const Convolution &all) : all_(all) {}

  // The products of a run begin.
  void begin(const Run &run) { begun_ = coming_ = run; }

  // A part of so many parts of those products is done.
  void fetch(int64_t part, int64_t parts) {
    const int count = static_cast<int>((part + 1) * kPixels / parts - part * kPixels / parts);
    const float *output = all_.strip.output, *residual = all_.strip.residual == output ? nullptr : all_.strip.residual;
    coming_.for_pixels(all_, count, [=](int, int64_t offset) {
      prefetch_output(output + offset);
      if (residual) prefetch_output(residual + offset);
    });
  }

  // All of them are done.
  void end(const float *sums) { written_ = begun_, sums_ = sums; }

  // Writes what has ended and wasn't written yet.
  void finish() {
    if (!sums_) return;
    const Vector bias = load(all_.bias + written_.block() * kOutBlock);
    const int64_t left = all_.kernel.out_channels - written_.block() * kOutBlock;
    float *output = all_.strip.output;
    const float *residual = all_.strip.residual, *sums = sums_;
    if (left < kOutBlock)
      written_.for_pixels(all_, kPixels, [=](int pixel, int64_t offset) {
        const Vector value = load(sums + pixel * kOutBlock) + bias;
        for (int n = 0; n < left; ++n) output[offset + n] = residual ? value[n] + residual[offset + n] : value[n];
      });
    else if (residual)
      written_.for_pixels(all_, kPixels, [=](int pixel, int64_t offset) {
        store(output + offset, load(sums + pixel * kOutBlock) + bias + load(residual + offset));
      });
    else
      written_.for_pixels(all_, kPixels, [=](int pixel, int64_t offset) {
        store(output + offset, load(sums + pixel * kOutBlock) + bias);
      });
    sums_ = nullptr;
  }

 private:
  const Convolution &all_;
  Run begun_, coming_, written_;
  const float *sums_ = nullptr;
};

// Merges the tile's columns of one block into the moments of its rows (Chan, Golub, LeVeque 1979). Within a row's piece
// sums are taken about its first value, in fp32; pieces are merged in double precision from left to right.
inline void add_moments(const Convolution &all, const Tile &tile, int64_t block) {
  const vaelens_strip &strip = all.strip;
  const int channels = all.kernel.out_channels, up = all.kernel.upsample;
  const int64_t begin = tile.left * up, rest = strip.out_width - begin;
  const int64_t count = tile.columns * up < rest ? tile.columns * up : rest;
  for (int r = 0; r < tile.rows * up; ++r) {
    const int64_t y = tile.top * up + r - strip.out_first;
    if (y < 0 || y >= strip.out_rows) continue;
    {
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
}
