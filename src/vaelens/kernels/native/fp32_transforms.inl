// Winograd's F(4x4,3x3): 36 products for 16 outputs instead of 144 (Lavin and Gray 2016).
//
// Interpolation points 0, +-sqrt(1/2), +-sqrt(2) and infinity: half the rounding error of the usual 0, +-1, +-2,
// because the powers of the points stay near 1; their squares are exact.
constexpr float kNear = 0.70710678118654752f, kFar = 1.41421356237309505f;
constexpr int kOut = 4, kIn = 6, kFrequencies = kIn * kIn;

// One dimension: six inputs `step` vectors apart, to six values.
inline void to_frequencies(const Vector *d, int step, Vector *v) {
  const Vector d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  const Vector near_even = multiply_add(splat(-2.0f), d2, d4), near_odd = multiply_add(splat(-2.0f), d1, d3);
  const Vector far_even = multiply_add(splat(-0.5f), d2, d4), far_odd = multiply_add(splat(-0.5f), d1, d3);
  v[0] = multiply_add(splat(-2.5f), d2, d0 + d4);
  v[1] = multiply_add(splat(kNear), near_odd, near_even);
  v[2] = multiply_add(splat(-kNear), near_odd, near_even);
  v[3] = multiply_add(splat(kFar), far_odd, far_even);
  v[4] = multiply_add(splat(-kFar), far_odd, far_even);
  v[5] = multiply_add(splat(-2.5f), d3, d1 + d5);
}

// And back: six sums to four outputs.
inline void to_outputs(const Vector *m, int step, Vector *y) {
  const Vector m0 = m[0], m1 = m[step], m2 = m[2 * step], m3 = m[3 * step], m4 = m[4 * step], m5 = m[5 * step];
  const Vector near_even = m1 + m2, near_odd = m1 - m2, far_even = m3 + m4, far_odd = m3 - m4;
  y[0] = m0 + (near_even + far_even);
  y[1] = multiply_add(splat(kNear), near_odd, splat(kFar) * far_odd);
  y[2] = multiply_add(splat(0.5f), near_even, splat(2.0f) * far_even);
  y[3] = multiply_add(splat(0.5f * kNear), near_odd, multiply_add(splat(2.0f * kFar), far_odd, m5));
}

// The filter's side: three taps to six values.
inline void filter_to_frequencies(const Vector *g, Vector *u) {
  const Vector near_even = multiply_add(splat(-1.0f / 3), g[2], splat(-2.0f / 3) * g[0]);
  const Vector far_even = multiply_add(splat(1.0f / 3), g[2], splat(1.0f / 6) * g[0]);
  u[0] = g[0];
  u[1] = multiply_add(splat(-2.0f / 3 * kNear), g[1], near_even);
  u[2] = multiply_add(splat(2.0f / 3 * kNear), g[1], near_even);
  u[3] = multiply_add(splat(kFar / 6), g[1], far_even);
  u[4] = multiply_add(splat(-kFar / 6), g[1], far_even);
  u[5] = g[2];
}

// Nine taps, `step` floats apart, of kLanes output channels, to 36 values `to_step` floats apart.
inline void transform_filter(const float *taps, int64_t step, float *to, int64_t to_step) {
  Vector columns[3 * kIn];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    Vector g[3], u[kIn];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) g[i] = load(taps + (3 * i + j) * step);
    filter_to_frequencies(g, u);
#pragma GCC unroll 6
    for (int i = 0; i < kIn; ++i) columns[i * 3 + j] = u[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kIn; ++i) {
    Vector u[kIn];
    filter_to_frequencies(columns + i * 3, u);
#pragma GCC unroll 6
    for (int j = 0; j < kIn; ++j) store(to + (i * kIn + j) * to_step, u[j]);
  }
}

// Sixteen channels of one tile: 6x6 pixels to 36 values, `step` floats apart.
inline void transform_input(const float *pixels, int64_t row_step, float *to, int64_t step) {
  for (int part = 0; part < kParts; ++part, pixels += kLanes, to += kLanes) {
    Vector columns[kFrequencies];
#pragma GCC unroll 6
    for (int j = 0; j < kIn; ++j) {
      Vector d[kIn], v[kIn];
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i) d[i] = load(pixels + i * row_step + j * kBlock);
      to_frequencies(d, 1, v);
#pragma GCC unroll 6
      for (int i = 0; i < kIn; ++i) columns[i * kIn + j] = v[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < kIn; ++i) {
      Vector v[kIn];
      to_frequencies(columns + i * kIn, 1, v);
#pragma GCC unroll 6
      for (int j = 0; j < kIn; ++j) store(to + (i * kIn + j) * step, v[j]);
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

// kLanes channels of one tile: 36 sums, `step` floats apart, to 4x4 outputs. `channel` counts from the first one that
// is written.
inline void transform_output(const float *from, int64_t step, Vector bias, const TileOutput &output, int64_t channel,
                             int lanes) {
  Vector half[kOut * kIn];
#pragma GCC unroll 6
  for (int j = 0; j < kIn; ++j) {
    Vector m[kIn], y[kOut];
#pragma GCC unroll 6
    for (int i = 0; i < kIn; ++i) m[i] = load(from + (i * kIn + j) * step);
    to_outputs(m, 1, y);
#pragma GCC unroll 4
    for (int i = 0; i < kOut; ++i) half[i * kIn + j] = y[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < kOut; ++i) {
    if (i >= output.rows) return;
    Vector y[kOut];
    to_outputs(half + i * kIn, 1, y);
#pragma GCC unroll 4
    for (int j = 0; j < kOut; ++j)
      if (j < output.columns) {
        const int64_t offset = i * output.row_step + j * output.pixel_step + channel;
        y[j] = put(output.at + offset, output.residual ? output.residual + offset : nullptr, y[j] + bias, lanes);
      }
    if (output.sums) output.sums[i].add<kOut>(channel, y, static_cast<int>(output.columns), output.begins);
  }
}
