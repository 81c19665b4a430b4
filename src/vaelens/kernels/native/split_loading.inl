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

struct Block {  // 32 channels of a pixel
  Vector a, b;
};

inline Block operator+(Block x, Block y) { return {x.a + y.a, x.b + y.b}; }
inline Block operator-(Block x, Block y) { return {x.a - y.a, x.b - y.b}; }

// One pixel's 32 channels from `channel` on.
template <bool normalised, int activation>
inline Block load_block(const float *pixel, const Normalisation &norm, int channel) {
  Vector a = load(pixel), b = load(pixel + 16);
  if (normalised) {
    a = (a - load(norm.mean + channel)) * load(norm.scale + channel) + load(norm.shift + channel);
    b = (b - load(norm.mean + channel + 16)) * load(norm.scale + channel + 16) + load(norm.shift + channel + 16);
  }
  return {activated<activation>(a), activated<activation>(b)};
}

// The input rows and columns that a tile of the output reads.
struct Window {
  int64_t top, left;  // in the map; may be negative
  int rows, columns;
};

// Planes of [block][row][column][32] bf16; the low plane follows the high one of all blocks. The rows are those of the
// window, or four planes of pairs, or the window's without its first and last, and then their differences.
struct Planes {
  uint16_t *high, *low;
  int64_t block_stride;  // in values
  int columns;           // of a row, at least the window's
};

// Loads windows of the strip's input.
template <bool normalised, int activation, bool split>
class Loading {
 public:
  Loading(const vaelens_strip &strip, int channels, const Normalisation &norm, int64_t pixels, Rows rows)
      : strip_(strip),
        norm_(norm),
        channels_(channels),
        blocks_((channels + kBlock - 1) / kBlock),
        pixels_(pixels),
        rows_(rows) {}

  void load_window(const Window &window, const Planes &planes) {
    window_ = window, planes_ = planes;
    // Down the columns where rows are combined, so that each is read once; otherwise as the map lies in memory.
    for (int row = 0; row < (rows_ == Rows::plain ? window_.rows : 1); ++row)
      for (column_ = 0; column_ < window_.columns; ++column_)
        for (block_ = 0; block_ < blocks_; ++block_) {
          if (rows_ == Rows::pairs)
            load_pairs();
          else if (rows_ == Rows::enlarged)
            load_differences();
          else
            place(row, block(row));
        }
  }

 private:
  // A block of a column down the whole window.
  void load_pairs() {
    const int pairs = (window_.rows - 2) / 2;
    Block first = block(0), second = block(1);
    for (int pair = 0; pair < pairs; ++pair) {
      const Block third = block(2 * pair + 2), fourth = block(2 * pair + 3);
      place(pair, first - third);
      place(pairs + pair, second + third);
      place(2 * pairs + pair, third - second);
      place(3 * pairs + pair, second - fourth);
      first = third, second = fourth;
    }
  }

  void load_differences() {
    const int rows = window_.rows - 2;
    Block above = block(0);
    for (int row = 0; row <= rows; ++row) {
      const Block here = block(row + 1);
      if (row < rows) place(row, here);
      place(rows + row, here - above);
      above = here;
    }
  }

  // Splits a block into a row of the planes.
  void place(int row, Block x) const {
    const int64_t offset =
        block_ * planes_.block_stride + (static_cast<int64_t>(row) * planes_.columns + column_) * kBlock;
    uint16_t *high = planes_.high + offset, *low = planes_.low + offset;
    to_bf16(x.a, x.b, high);
    if (split) to_bf16(x.a - from_bf16(high), x.b - from_bf16(high + 16), low);
  }

  // The block of the window's row in this column; zeros around the map.
  Block block(int row) const {
    const int64_t y = window_.top + row, x = window_.left + column_;
    const int64_t index = (y - strip_.in_first) * strip_.in_width + x;
    // Rows that weren't given are read for output rows that aren't asked for: half of an enlarged row's two, say.
    const bool given = index >= 0 && index < pixels_;
    if (!given || y < 0 || y >= strip_.in_height || x < 0 || x >= strip_.in_width) return {Vector{}, Vector{}};
    const int first = block_ * kBlock, left = channels_ - first;
    const float *pixel = strip_.input + index * strip_.in_stride + first;
    if (left >= kBlock) {
      prefetch_input(pixel +
                     (rows_ == Rows::plain ? strip_.in_width : 1) * strip_.in_stride);  // the next column's or row's
      return load_block<normalised, activation>(pixel, norm_, first);
    }
    alignas(64) float padded[kBlock] = {};
    for (int i = 0; i < left; ++i) padded[i] = pixel[i];
    return load_block<normalised, activation>(padded, norm_, first);
  }

  const vaelens_strip &strip_;
  const Normalisation &norm_;
  const int channels_, blocks_;
  const int64_t pixels_;
  const Rows rows_;
  Window window_ = {};
  Planes planes_ = {};
  int column_ = 0, block_ = 0;
};
