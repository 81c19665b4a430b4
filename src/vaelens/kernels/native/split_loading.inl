// Input pixels to bf16: normalised, activated, and each value split into a high and a low half.
//
// x = high + low + error, each half in bf16 (8 bits of significand), so that |error| <= 2^-18 |x|. Together with the
// weights' halves, three of the four products give fp32's accuracy in another order; low * low, the fourth, is as
// small as the error.

typedef float Vector __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef float LooseVector __attribute__((vector_size(64), aligned(4), may_alias));

inline Vector load(const float *from) { return *reinterpret_cast<const LooseVector *>(from); }
inline void store(float *to, Vector value) { *reinterpret_cast<LooseVector *>(to) = value; }

constexpr int kBlock = 32;  // channels of a block: a tile's row of bf16

// exp(x) for x in [-87, 88]: 2^n * exp(r), |r| <= ln(2)/2, by Taylor's polynomial of degree 7 (relative error 6e-8 with
// rounding). NaN stays NaN.
inline Vector exponential(Vector x) {
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which stands in the lowest bits
  const Vector shifted = x * 1.44269504f + shifter;
  const Vector n = shifted - shifter;
  Vector r = x - n * 0.693359375f;  // ln(2) in two parts, the first exact in products with n
  r = r + n * 2.12194440e-4f;
  Vector p = r * 1.98412698e-4f + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return (Vector)((Ints)p + ((Ints)shifted << 23));
}

inline Vector clamped(Vector x, float low, float high) {
  const Vector lows = Vector{} + low, highs = Vector{} + high;
  x = x < lows ? lows : x;
  return x > highs ? highs : x;
}

template <int activation>
inline Vector activated(Vector x) {
  if (activation == VAELENS_SILU) return x * reciprocal(exponential(clamped(-x, -87.0f, 88.0f)) + 1.0f);
  if (activation == VAELENS_RELU) return x < Vector{} ? Vector{} : x;
  return x;
}

// What the loader applies, padded with zeros to whole blocks; all NULL where nothing is normalised.
struct Normalisation {
  const float *mean, *scale, *shift;
};

// One pixel's 32 channels from `channel` on, into one row of the high and of the low plane.
template <bool normalised, int activation, bool split>
inline void load_block(const float *pixel, const Normalisation &norm, int channel, uint16_t *high, uint16_t *low) {
  Vector a = load(pixel), b = load(pixel + 16);
  if (normalised) {
    a = (a - load(norm.mean + channel)) * load(norm.scale + channel) + load(norm.shift + channel);
    b = (b - load(norm.mean + channel + 16)) * load(norm.scale + channel + 16) + load(norm.shift + channel + 16);
  }
  a = activated<activation>(a);
  b = activated<activation>(b);
  to_bf16(a, b, high);
  if (split) to_bf16(a - from_bf16(high), b - from_bf16(high + 16), low);
}

// The input rows and columns that a tile of the output reads.
struct Window {
  int64_t top, left;  // in the map; may be negative
  int rows, columns;
};

// Planes of [block][row][column][32] bf16; the low plane follows the high one of all blocks.
struct Planes {
  uint16_t *high, *low;
  int64_t block_stride;  // in values
  int columns;           // of a row, at least the window's
};

// Loads a window one pixel's block at a time, so that the loads of the next window can be spread among the products of
// this one: the matrix unit and the vector units then work at the same time.
template <bool normalised, int activation, bool split>
class Loading {
 public:
  Loading(const vaelens_strip &strip, int channels, const Normalisation &norm, int64_t pixels)
      : strip_(strip), norm_(norm), channels_(channels), pixels_(pixels) {}

  void begin(const Window &window, const Planes &planes) {
    window_ = window, planes_ = planes, row_ = 0, column_ = 0, block_ = 0;
  }

  bool done() const { return row_ >= window_.rows; }

  void step() {
    const int64_t offset = block_ * planes_.block_stride + (static_cast<int64_t>(row_) * planes_.columns + column_) * kBlock;
    const int64_t y = window_.top + row_, x = window_.left + column_;
    const int64_t index = (y - strip_.in_first) * strip_.in_width + x;
    const int first = block_ * kBlock, left = channels_ - first;
    uint16_t *high = planes_.high + offset, *low = planes_.low + offset;
    // Rows that weren't given are read for output rows that aren't asked for: half of an enlarged row's two, say.
    const bool given = index >= 0 && index < pixels_;
    if (y < 0 || y >= strip_.in_height || x < 0 || x >= strip_.in_width || !given) {
      clear_block(high);
      if (split) clear_block(low);
    } else if (left >= kBlock) {
      prefetch_input(strip_.input + (index + strip_.in_width) * strip_.in_stride + first);
      load_block<normalised, activation, split>(strip_.input + index * strip_.in_stride + first, norm_, first, high, low);
    } else {
      alignas(64) float padded[kBlock] = {};
      for (int i = 0; i < left; ++i) padded[i] = strip_.input[index * strip_.in_stride + first + i];
      load_block<normalised, activation, split>(padded, norm_, first, high, low);
    }
    if (left > kBlock) {
      ++block_;
    } else {
      block_ = 0;
      if (++column_ == window_.columns) column_ = 0, ++row_;
    }
  }

  void finish() {
    while (!done()) step();
  }

 private:
  const vaelens_strip &strip_;
  const Normalisation &norm_;
  const int channels_;
  const int64_t pixels_;
  Window window_ = {};
  Planes planes_ = {};
  int row_ = 0, column_ = 0, block_ = 0;
};
