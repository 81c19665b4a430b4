// Winograd's F(4x4,3x3): 36 products for 16 outputs instead of 144 (Lavin and Gray 2016); and F(4x4,2x2), 25 instead of
// 64, for each of the four phases of a map that is enlarged by nearest: the pixels in even or odd rows and columns,
// which are convolutions of the small map with sums of the taps.
//
// Interpolation points of the three taps: 0, +-sqrt(1/2), +-sqrt(2) and infinity: half the rounding error of the usual
// 0, +-1, +-2, because the powers of the points stay near 1; their squares are exact. Of the two: 0, 1, -1/2, -2 and
// infinity, whose rounding error is as small; all factors of inputs and outputs are exact.
constexpr float kNear = 0.70710678118654752f, kFar = 1.41421356237309505f;
constexpr int kOut = 4;

template <int taps>
struct Tile {
  static constexpr int in = kOut + taps - 1, frequencies = in * in;
};

// One dimension: the inputs of a tile, to as many values.
template <int taps>
inline void to_frequencies(const Vector *d, Vector *v) {
  if constexpr (taps == 3) {
    const Vector near_even = multiply_add(splat(-2.0f), d[2], d[4]), near_odd = multiply_add(splat(-2.0f), d[1], d[3]);
    const Vector far_even = multiply_add(splat(-0.5f), d[2], d[4]), far_odd = multiply_add(splat(-0.5f), d[1], d[3]);
    v[0] = multiply_add(splat(-2.5f), d[2], d[0] + d[4]);
    v[1] = multiply_add(splat(kNear), near_odd, near_even);
    v[2] = multiply_add(splat(-kNear), near_odd, near_even);
    v[3] = multiply_add(splat(kFar), far_odd, far_even);
    v[4] = multiply_add(splat(-kFar), far_odd, far_even);
    v[5] = multiply_add(splat(-2.5f), d[3], d[1] + d[5]);
  } else {
    v[0] = multiply_add(splat(1.5f), d[2] - d[1], d[3] - d[0]);
    v[1] = multiply_add(splat(2.5f), d[2], d[1] + d[3]);
    v[2] = multiply_add(splat(-2.0f), d[1], d[2] + d[3]);
    v[3] = multiply_add(splat(-0.5f), d[1] + d[2], d[3]);
    v[4] = multiply_add(splat(1.5f), d[3] - d[2], d[4] - d[1]);
  }
}

// And back: the sums to four outputs.
template <int taps>
inline void to_outputs(const Vector *m, Vector *y) {
  if constexpr (taps == 3) {
    const Vector near_even = m[1] + m[2], near_odd = m[1] - m[2], far_even = m[3] + m[4], far_odd = m[3] - m[4];
    y[0] = m[0] + (near_even + far_even);
    y[1] = multiply_add(splat(kNear), near_odd, splat(kFar) * far_odd);
    y[2] = multiply_add(splat(0.5f), near_even, splat(2.0f) * far_even);
    y[3] = multiply_add(splat(0.5f * kNear), near_odd, multiply_add(splat(2.0f * kFar), far_odd, m[5]));
  } else {
    y[0] = (m[0] + m[1]) + (m[2] + m[3]);
    y[1] = multiply_add(splat(-2.0f), m[3], multiply_add(splat(-0.5f), m[2], m[1]));
    y[2] = multiply_add(splat(4.0f), m[3], multiply_add(splat(0.25f), m[2], m[1]));
    y[3] = multiply_add(splat(-8.0f), m[3], multiply_add(splat(-0.125f), m[2], m[1] + m[4]));
  }
}

// The filter's side: the taps to as many values.
template <int taps>
inline void filter_to_frequencies(const Vector *g, Vector *u) {
  if constexpr (taps == 3) {
    const Vector near_even = multiply_add(splat(-1.0f / 3), g[2], splat(-2.0f / 3) * g[0]);
    const Vector far_even = multiply_add(splat(1.0f / 3), g[2], splat(1.0f / 6) * g[0]);
    u[0] = g[0];
    u[1] = multiply_add(splat(-2.0f / 3 * kNear), g[1], near_even);
    u[2] = multiply_add(splat(2.0f / 3 * kNear), g[1], near_even);
    u[3] = multiply_add(splat(kFar / 6), g[1], far_even);
    u[4] = multiply_add(splat(-kFar / 6), g[1], far_even);
    u[5] = g[2];
  } else {
    u[0] = -g[0];
    u[1] = splat(2.0f / 9) * (g[0] + g[1]);
    u[2] = splat(8.0f / 9) * multiply_add(splat(-0.5f), g[1], g[0]);
    u[3] = splat(-1.0f / 9) * multiply_add(splat(-2.0f), g[1], g[0]);
    u[4] = g[1];
  }
}

// Which of each two rows and columns of an enlarged map: those of one phase are a convolution of the small map, that
// begins a pixel before theirs or, where they are odd, at theirs. Of a map that isn't enlarged there is one phase.
struct Phase {
  int row, column;
};

// Three taps of an enlarged map to two of the small one, for even or odd pixels: what falls on one pixel is added.
inline void phase_taps(const Vector *g, int odd, Vector *two) {
  two[0] = odd ? g[0] + g[1] : g[0];
  two[1] = odd ? g[2] : g[1] + g[2];
}

// Nine taps, `step` floats apart, of kLanes output channels, to the values of a phase, `to_step` floats apart.
template <int taps>
inline void transform_filter(const float *nine, int64_t step, Phase phase, float *to, int64_t to_step) {
  constexpr int in = Tile<taps>::in;
  Vector columns[3 * in];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    Vector g[3], two[2], u[in];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) g[i] = load(nine + (3 * i + j) * step);
    if constexpr (taps == 2) phase_taps(g, phase.row, two);
    filter_to_frequencies<taps>(taps == 2 ? two : g, u);
#pragma GCC unroll 6
    for (int i = 0; i < in; ++i) columns[i * 3 + j] = u[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < in; ++i) {
    Vector two[2], u[in];
    if constexpr (taps == 2) phase_taps(columns + i * 3, phase.column, two);
    filter_to_frequencies<taps>(taps == 2 ? two : columns + i * 3, u);
#pragma GCC unroll 6
    for (int j = 0; j < in; ++j) store(to + (i * in + j) * to_step, u[j]);
  }
}

// Sixteen channels of one tile: its pixels to as many values, `step` floats apart.
template <int taps>
inline void transform_input(const float *pixels, int64_t row_step, float *to, int64_t step) {
  constexpr int in = Tile<taps>::in;
  for (int part = 0; part < kParts; ++part, pixels += kLanes, to += kLanes) {
    Vector columns[in * in];
#pragma GCC unroll 6
    for (int j = 0; j < in; ++j) {
      Vector d[in], v[in];
#pragma GCC unroll 6
      for (int i = 0; i < in; ++i) d[i] = load(pixels + i * row_step + j * kBlock);
      to_frequencies<taps>(d, v);
#pragma GCC unroll 6
      for (int i = 0; i < in; ++i) columns[i * in + j] = v[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < in; ++i) {
      Vector v[in];
      to_frequencies<taps>(columns + i * in, v);
#pragma GCC unroll 6
      for (int j = 0; j < in; ++j) store(to + (i * in + j) * step, v[j]);
    }
  }
}

// Where one tile's outputs go: rows x columns of its 4x4 pixels, with their sums for the moments, or without.
struct TileOutput {
  float *at;              // of the first pixel and channel
  const float *residual;  // there, or NULL
  int64_t row_step, pixel_step, rows, columns;
  const RowSums *sums;  // of four rows, or NULL
  bool begins;          // the tile is the first of its rows
};

// kLanes channels of one tile: its sums, `step` floats apart, to 4x4 outputs. `channel` counts from the first one that
// is written.
template <int taps>
inline void transform_output(const float *from, int64_t step, Vector bias, const TileOutput &output, int64_t channel,
                             int lanes) {
  constexpr int in = Tile<taps>::in;
  Vector half[kOut * in];
#pragma GCC unroll 6
  for (int j = 0; j < in; ++j) {
    Vector m[in], y[kOut];
#pragma GCC unroll 6
    for (int i = 0; i < in; ++i) m[i] = load(from + (i * in + j) * step);
    to_outputs<taps>(m, y);
#pragma GCC unroll 4
    for (int i = 0; i < kOut; ++i) half[i * in + j] = y[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kOut; ++i) {
    if (i >= output.rows) return;
    Vector y[kOut];
    to_outputs<taps>(half + i * in, y);
#pragma GCC unroll 4
    for (int j = 0; j < kOut; ++j)
      if (j < output.columns) {
        const int64_t offset = i * output.row_step + j * output.pixel_step + channel;
        y[j] = put(output.at + offset, output.residual ? output.residual + offset : nullptr, y[j] + bias, lanes);
      }
    if (output.sums) output.sums[i].add<kOut>(channel, y, static_cast<int>(output.columns), output.begins);
  }
}
