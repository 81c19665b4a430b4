// Matrix products whose sums stay in registers.

constexpr int kRows = VAELENS_TILE_ROWS;  // pixels or tiles at once: as many sums as the registers hold
constexpr int kPanel = 2 * kLanes;        // output channels at once

// The panels of output channels: of kPanel each, but for a last one of kLanes where no more are left.
struct Panels {
  int64_t channels;
  explicit Panels(int64_t out_channels) : channels(out_channels) {}
  int64_t count() const { return quotient_up(channels, kPanel); }
  int width(int64_t panel) const { return channels - panel * kPanel > kLanes ? kPanel : kLanes; }
  int64_t padded() const { return round_up(channels, kLanes); }
};

// The factors of one product: c[row][column] = sum of a[tap][block][row][k] b[tap][block][k][column].
struct Factors {
  const float *a;       // of the first row and tap
  const int64_t *taps;  // where each tap begins, from `a`
  int64_t tap_count;
  int64_t blocks;         // of 16 input channels
  int64_t block_step;     // floats
  int64_t last_channels;  // in the last block
  const float *b;         // [taps, in_channels, width of the panel]
  const float *next;      // what a later product reads: it is fetched meanwhile
  bool more;              // c holds the sum over earlier channels
};

// Rows of `a` are `row_step` floats apart: 16 for neighbouring pixels, 32 for a stride of 2.
template <int rows, int vectors, int row_step>
void multiply(const Factors &factors, float *c) {
  Vector sums[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sums[r][v] = factors.more ? load(c + (r * vectors + v) * kLanes) : Vector{};
  const float *b = factors.b;
  const float *next = factors.next;
  for (int64_t tap = 0; tap < factors.tap_count; ++tap) {
    const float *block = factors.a + factors.taps[tap];
    for (int64_t i = 0; i < factors.blocks; ++i, block += factors.block_step) {
      const int64_t channels = i + 1 < factors.blocks ? kBlock : factors.last_channels;
      for (int64_t k = 0; k < channels; ++k) {
        Vector column[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) column[v] = load(b + v * kLanes);
        b += vectors * kLanes;
        __builtin_prefetch(next, 0, 2);  // to the second-level cache: the first holds what is read now
        next += kLanes;
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
          const Vector value = splat(block[r * row_step + k]);
#pragma GCC unroll 2
          for (int v = 0; v < vectors; ++v) sums[r][v] = multiply_add(value, column[v], sums[r][v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(c + (r * vectors + v) * kLanes, sums[r][v]);
}

using Multiply = void (*)(const Factors &, float *);

// multiply<rows, ...> for each number of rows up to kRows.
template <int vectors, int row_step, int rows = kRows>
struct ByRows {
  static Multiply of(int64_t wanted) {
    return wanted == rows ? multiply<rows, vectors, row_step> : ByRows<vectors, row_step, rows - 1>::of(wanted);
  }
};
template <int vectors, int row_step>
struct ByRows<vectors, row_step, 1> {
  static Multiply of(int64_t) { return multiply<1, vectors, row_step>; }
};

// `count` rows, in equal parts: each row's sum is made in the same order whatever part it falls in.
inline void multiply_rows(Factors factors, int64_t count, int width, int stride, float *c) {
  const int64_t parts = quotient_up(count, kRows);
  const float *a = factors.a, *next = factors.next;
  const int64_t depth = factors.tap_count * ((factors.blocks - 1) * kBlock + factors.last_channels);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = part * count / parts, rows = (part + 1) * count / parts - first;
    Multiply call;
    if (stride == 1)
      call = width == kPanel ? ByRows<2, kBlock>::of(rows) : ByRows<1, kBlock>::of(rows);
    else
      call = width == kPanel ? ByRows<2, 2 * kBlock>::of(rows) : ByRows<1, 2 * kBlock>::of(rows);
    factors.a = a + first * stride * kBlock;
    factors.next = next + part % 2 * depth * kLanes;
    call(factors, c + first * width);
  }
}
