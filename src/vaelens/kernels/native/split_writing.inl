// What becomes of the products' sums: output pixels, and the moments of their rows.

struct Convolution {
  const vaelens_kernel &kernel;
  const vaelens_strip &strip;
  Taps taps;
  Layout layout;
  Normalisation norm;
  const float *bias;                 // padded to whole blocks
  int64_t first, rows, width;        // of the output before enlarging
  int64_t in_pixels, out_pixels;     // that the strip's memory holds
  int64_t bands, parts;       // of rows; of the work, several bands each
  int64_t groups, per_group;  // of blocks of output channels, and the blocks of one
};

struct Tile {  // of the output, before enlarging
  int64_t top, left;
  int rows, columns;
};

// The output pixels of a run: of 32 that are accumulated together. They are counted along the planes' rows, so that a run
// may cross into the next row; those between rows are junk.
class Run {
 public:
  Run() = default;
  Run(const Phase &phase, const Tile &tile, int64_t block, int place, int row_length)
      : phase_(&phase), tile_(tile), block_(block), row_length_(row_length), row_(place / row_length), column_(place % row_length) {}

  int64_t block() const { return block_; }

  // Where the present pixel's block begins in the output; -1 for junk and rows of other strips.
  int64_t offset(const Convolution &all) const {
    if (!phase_) return -1;
    const vaelens_strip &strip = all.strip;
    const int up = all.kernel.upsample;
    const int64_t y = (tile_.top + row_) * up + phase_->row - strip.out_first, x = (tile_.left + column_) * up + phase_->column;
    const int64_t index = y * strip.out_width + x;
    const bool wanted = row_ < tile_.rows && column_ < tile_.columns && y >= 0 && y < strip.out_rows &&
                        x < strip.out_width && index < all.out_pixels;
    return wanted ? index * all.kernel.out_channels + block_ * kBlock : -1;
  }

  void advance() {
    if (++column_ == row_length_) column_ = 0, ++row_;
  }

 private:
  const Phase *phase_ = nullptr;
  Tile tile_ = {};
  int64_t block_ = 0;
  int row_length_ = 1, row_ = 0, column_ = 0;
};

// Adds bias and residual to the sums of a run and writes them, one pixel at a time: like the loads, between the products
// of the next run, whose places in memory are fetched meanwhile.
class Writing {
 public:
  explicit Writing(const Convolution &all) : all_(all) {}

  // The products of a run begin; those before it can be written.
  void begin(const Run &run) { first_ = coming_ = run, pixel_ = 0; }

  // The products of that run have ended.
  void end(const float *sums) {
    written_ = first_, sums_ = sums;
    bias_[0] = load(all_.bias + written_.block() * kBlock), bias_[1] = load(all_.bias + written_.block() * kBlock + 16);
  }

  bool done() const { return pixel_ >= kPixels; }

  void step() {
    const int64_t coming = coming_.offset(all_);
    if (coming >= 0) {
      prefetch_output(all_.strip.output + coming);
      if (all_.strip.residual && all_.strip.residual != all_.strip.output) prefetch_input(all_.strip.residual + coming);
    }
    coming_.advance();
    if (sums_) {
      const int64_t offset = written_.offset(all_);
      if (offset >= 0) write(offset, sums_ + pixel_ / 16 * 512 + pixel_ % 16 * 16);
      written_.advance();
    }
    ++pixel_;
  }

  void finish() {
    while (!done()) step();
    sums_ = nullptr;
  }

 private:
  void write(int64_t offset, const float *values) const {
    const float *residual = all_.strip.residual ? all_.strip.residual + offset : nullptr;
    float *output = all_.strip.output + offset;
    const int64_t left = all_.kernel.out_channels - written_.block() * kBlock;
    if (left >= kBlock) {
      for (int half = 0; half < 2; ++half) {
        Vector value = load(values + half * 256) + bias_[half];
        if (residual) value += load(residual + half * 16);
        store(output + half * 16, value);
      }
    } else {
      for (int n = 0; n < left; ++n) {
        const float value = values[n / 16 * 256 + n % 16] + all_.bias[written_.block() * kBlock + n];
        output[n] = residual ? value + residual[n] : value;
      }
    }
  }

  const Convolution &all_;
  Run first_, coming_, written_;
  int pixel_ = kPixels;
  const float *sums_ = nullptr;
  Vector bias_[2] = {};
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
    for (int64_t c = block * kBlock; c < channels && c < (block + 1) * kBlock; c += 16) {
      const int lanes = channels - c < 16 ? static_cast<int>(channels - c) : 16;
      const float *values = strip.output + (y * strip.out_width + begin) * channels + c;
      alignas(64) float first[16] = {}, sum[16] = {}, square[16] = {};
      if (lanes == 16) {
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

