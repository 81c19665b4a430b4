// Input pixels to bf16: normalised, activated, and each value split into a high and a low half.
//
// x = high + low + error, each half in bf16 (8 bits of significand), so that |error| <= 2^-18 |x|. Together with the
// weights' halves, three of the four products give fp32's accuracy in another order; low * low, the fourth, is as
// small as the error.

typedef float LooseVector __attribute__((vector_size(64), aligned(4), may_alias));

inline Vector load(const float *from) { return *reinterpret_cast<const LooseVector *>(from); }
inline void store(float *to, Vector value) { *reinterpret_cast<LooseVector *>(to) = value; }

template <int activation>
inline Vector activated(Vector x) {
  if (activation == VAELENS_SILU) return silu(x);
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

// Loads a window in small parts, so that those of the next window can be spread among the products of this one: the
// matrix unit and the vector units then work at the same time.
template <bool normalised, int activation, bool split>
class Loading {
 public:
  Loading(const vaelens_strip &strip, int channels, const Normalisation &norm, int64_t pixels)
      : strip_(strip), norm_(norm), channels_(channels), blocks_((channels + kBlock - 1) / kBlock), pixels_(pixels) {}

  void begin(const Window &window, const Planes &planes) {
    window_ = window, planes_ = planes, row_ = 0, column_ = 0, block_ = 0;
  }

  // Parts of a window: up to kAtOnce blocks of a pixel each.
  int64_t parts() const {
    return static_cast<int64_t>(window_.rows) * window_.columns * ((blocks_ + kAtOnce - 1) / kAtOnce);
  }

  void load_parts(int64_t parts) {
    for (; parts > 0 && row_ < window_.rows; --parts) load_part();
  }

  void finish() {
    while (row_ < window_.rows) load_part();
  }

 private:
  static constexpr int kAtOnce = 4;

  void load_part() {
    const int64_t y = window_.top + row_, x = window_.left + column_;
    const int64_t index = (y - strip_.in_first) * strip_.in_width + x;
    // Rows that weren't given are read for output rows that aren't asked for: half of an enlarged row's two, say.
    const bool given = index >= 0 && index < pixels_;
    const bool inside = given && y >= 0 && y < strip_.in_height && x >= 0 && x < strip_.in_width;
    const float *pixel = strip_.input + index * strip_.in_stride;
    const int64_t place = static_cast<int64_t>(row_) * planes_.columns + column_;
    const int64_t offset = block_ * planes_.block_stride + place * kBlock;
    uint16_t *high = planes_.high + offset, *low = planes_.low + offset;
    const int end = blocks_ - block_ < kAtOnce ? blocks_ : block_ + kAtOnce;
    for (; block_ < end; ++block_, high += planes_.block_stride, low += planes_.block_stride) {
      const int first = block_ * kBlock, left = channels_ - first;
      if (!inside) {
        clear_block(high);
        if (split) clear_block(low);
      } else if (left >= kBlock) {
        prefetch_input(pixel + strip_.in_width * strip_.in_stride + first);  // the next row's
        load_block<normalised, activation, split>(pixel + first, norm_, first, high, low);
      } else {
        alignas(64) float padded[kBlock] = {};
        for (int i = 0; i < left; ++i) padded[i] = pixel[first + i];
        load_block<normalised, activation, split>(padded, norm_, first, high, low);
      }
    }
    if (block_ == blocks_) {
      block_ = 0;
      if (++column_ == window_.columns) column_ = 0, ++row_;
    }
  }

  const vaelens_strip &strip_;
  const Normalisation &norm_;
  const int channels_, blocks_;
  const int64_t pixels_;
  Window window_ = {};
  Planes planes_ = {};
  int row_ = 0, column_ = 0, block_ = 0;
};
