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

// The filter's side, in float64: g [3][3] to u [6][6].
inline void filter_to_frequencies(const double *g, double *u) {
  const double near = 0.70710678118654752440, far = 1.41421356237309504880;
  const double points[kIn - 1] = {0, near, -near, far, -far}, norms[kIn - 1] = {1, -1.5, -1.5, 6, 6};
  double matrix[kIn][3] = {};
  for (int i = 0; i < kIn - 1; ++i) {
    matrix[i][0] = 1 / norms[i];
    matrix[i][1] = points[i] / norms[i];
    matrix[i][2] = points[i] * points[i] / norms[i];
  }
  matrix[kIn - 1][2] = 1;
  for (int i = 0; i < kIn; ++i)
    for (int j = 0; j < kIn; ++j) {
      double sum = 0;
      for (int k = 0; k < 3; ++k)
        for (int l = 0; l < 3; ++l) sum += matrix[i][k] * g[3 * k + l] * matrix[j][l];
      u[i * kIn + j] = sum;
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

// How many tiles a thread holds in its cache.
struct WinogradPlan {
  Columns columns;
  int64_t blocks, tile_rows, tiles, panels;
  int64_t window, values, sums, row_sums;  // floats

  WinogradPlan(const vaelens_kernel &kernel, int64_t out_width)
      : columns(out_width, kOut), blocks(quotient_up(kernel.in_channels, kBlock)) {
    const Panels out(kernel.out_channels);
    // Each transformed weight is read from memory once for all tiles of an item: the more weights, the more tiles it
    // takes until the arithmetic outweighs the reading. The tiles' values then leave the second-level cache, which
    // costs less.
    const int64_t weights = int64_t(kernel.in_channels) * kernel.out_channels;
    const int64_t wanted = weights >= 256 * 384 ? 64 : 32;
    tile_rows = larger(1, wanted / columns.widest());
    tiles = (tile_rows * columns.widest()) | 1;  // odd, so that the 36 values of a tile fall in different cache sets
    window = smaller(blocks, kBlocksAtOnce) * (tile_rows * kOut + 2) * (columns.widest() * kOut + 2) * kBlock;
    values = blocks * kFrequencies * tiles * kBlock;
    // Sums of as many panels as fit beside the values.
    const int64_t panel = kFrequencies * tiles * kPanel;
    panels = smaller(out.count(), larger(1, (512 << 10) / 4 / panel));
    sums = panels * panel;
    row_sums = kOut * RowSums::floats(panels * kPanel);
  }
  int64_t bytes() const { return (window + values + sums + row_sums) * int64_t(sizeof(float)); }
};

struct WinogradWork {
  const vaelens_kernel *kernel;
  const vaelens_strip *strip;
  const WinogradPlan *plan;
  int64_t items;
};

// A rectangle of tiles: the first one's output pixel, and how many.
struct TileArea {
  int64_t row, rows, column, columns;
  int64_t count() const { return rows * columns; }
};

inline void winograd_values(const WinogradWork &work, const TileArea &area, float *window_at, float *values) {
  const WinogradPlan &plan = *work.plan;
  const vaelens_kernel &kernel = *work.kernel;
  const Window window = {area.row - kernel.pad_top, area.rows * kOut + 2, area.column - kernel.pad_left,
                         area.columns * kOut + 2};
  const int64_t block_step = window.pixels() * kBlock, row_step = window.columns * kBlock;
  for (int64_t first = 0; first < plan.blocks; first += kBlocksAtOnce) {
    const int64_t count = smaller(kBlocksAtOnce, plan.blocks - first);
    load_window(kernel, *work.strip, window, first, count, window_at, block_step);
    for (int64_t b = 0; b < count; ++b) {
      float *to = values + (first + b) * kFrequencies * plan.tiles * kBlock;
      for (int64_t y = 0; y < area.rows; ++y)
        for (int64_t x = 0; x < area.columns; ++x, to += kBlock)
          transform_input(window_at + b * block_step + y * kOut * row_step + x * kOut * kBlock, row_step, to,
                          plan.tiles * kBlock);
    }
  }
}

// Blocks of input channels that are multiplied with all tiles before the next: their weights (16 KB with AVX-512) stay
// in the first-level cache meanwhile.
constexpr int64_t kDepth = 8;

inline void winograd_products(const WinogradWork &work, const TileArea &area, int64_t first_panel, int64_t panels,
                              const float *values, float *sums) {
  const WinogradPlan &plan = *work.plan;
  const int64_t in_channels = work.kernel->in_channels;
  const Panels out(work.kernel->out_channels);
  const int64_t frequency_step = plan.tiles * kBlock, no_shift = 0;
  const float *weights = static_cast<const float *>(work.strip->weights);
  const auto panel_at = [&](int64_t panel, int64_t frequency) {
    return weights + in_channels * (panel * kFrequencies * kPanel + frequency * out.width(panel));
  };
  for (int64_t frequency = 0; frequency < kFrequencies; ++frequency)
    for (int64_t panel = 0; panel < panels; ++panel) {
      const bool last_panel = panel + 1 == panels;
      const int width = out.width(first_panel + panel);
      const float *b = panel_at(first_panel + panel, frequency);
      const float *next = last_panel ? panel_at(first_panel, smaller(frequency + 1, kFrequencies - 1))
                                     : panel_at(first_panel + panel + 1, frequency);
      for (int64_t block = 0; block < plan.blocks; block += kDepth) {
        const bool last = block + kDepth >= plan.blocks;
        const int64_t block_step = kFrequencies * frequency_step;
        const Factors factors = {values + frequency * frequency_step + block * block_step,
                                 &no_shift,
                                 1,
                                 last ? plan.blocks - block : kDepth,
                                 block_step,
                                 last ? in_channels - (plan.blocks - 1) * kBlock : kBlock,
                                 b + block * kBlock * width,
                                 last ? next : b + (block + kDepth) * kBlock * width,
                                 block > 0};
        multiply_rows(factors, area.count(), width, 1,
                      sums + (panel * kFrequencies + frequency) * plan.tiles * kPanel);
      }
    }
}

inline void winograd_outputs(const WinogradWork &work, const TileArea &area, int64_t first_panel, int64_t panels,
                             const float *sums, float *row_sums) {
  const WinogradPlan &plan = *work.plan;
  const vaelens_strip &strip = *work.strip;
  const int64_t channels = work.kernel->out_channels, row_step = strip.out_width * channels;
  const int64_t first_channel = first_panel * kPanel, written = smaller(panels * kPanel, channels - first_channel);
  const int64_t end = smaller(strip.out_width, area.column + area.columns * kOut);
  RowSums of_rows[kOut] = {{row_sums, 0}, {row_sums, 0}, {row_sums, 0}, {row_sums, 0}};
  for (int i = 0; i < kOut; ++i)
    of_rows[i] = RowSums(row_sums + i * RowSums::floats(panels * kPanel), panels * kPanel);
  for (int64_t y = 0; y < area.rows; ++y) {
    const int64_t row = area.row + y * kOut - strip.out_first, rows = smaller(kOut, strip.out_rows - row);
    for (int64_t x = 0; x < area.columns; ++x) {
      const int64_t at = (row * strip.out_width + area.column + x * kOut) * channels + first_channel;
      const TileOutput output = {strip.output + at,
                                 strip.residual ? strip.residual + at : nullptr,
                                 row_step,
                                 channels,
                                 rows,
                                 smaller(kOut, end - area.column - x * kOut),
                                 strip.moments ? of_rows : nullptr,
                                 x == 0};
      for (int64_t channel = 0; channel < written; channel += kLanes) {
        const int64_t panel = channel / kPanel, width = Panels(channels).width(first_panel + panel);
        const int lanes = lanes_at(channel, written);
        const Vector bias = strip.bias ? load_some(strip.bias + first_channel + channel, lanes) : Vector{};
        const float *from = sums + panel * kFrequencies * plan.tiles * kPanel + (y * area.columns + x) * width;
        transform_output(from + channel % kPanel, plan.tiles * kPanel, bias, output, channel, lanes);
      }
    }
    if (!strip.moments) continue;
    for (int64_t r = 0; r < rows; ++r)
      merge_moments(of_rows[r], written, end - area.column, area.column,
                    strip.moments + 2 * ((row + r) * channels + first_channel));
  }
}

bool winograd_item(void *context, int64_t item, int) {
  const WinogradWork &work = *static_cast<const WinogradWork *>(context);
  const WinogradPlan &plan = *work.plan;
  const vaelens_strip &strip = *work.strip;
  float *memory = static_cast<float *>(scratch(plan.bytes()));
  if (!memory) return false;
  float *values = memory, *sums = values + plan.values;
  float *row_sums = sums + plan.sums, *window = row_sums + plan.row_sums;
  const int64_t tile_rows = quotient_up(strip.out_rows, kOut), panels = Panels(work.kernel->out_channels).count();
  const int64_t first = item * tile_rows / work.items, last = (item + 1) * tile_rows / work.items;
  for (int64_t block = 0; block < plan.columns.count(); ++block) {
    const int64_t column = plan.columns.first(block), end = plan.columns.first(block + 1);
    const TileArea area = {strip.out_first + first * kOut, last - first, column * kOut, end - column};
    winograd_values(work, area, window, values);
    for (int64_t panel = 0; panel < panels; panel += plan.panels) {
      const int64_t count = smaller(plan.panels, panels - panel);
      winograd_products(work, area, panel, count, values, sums);
      winograd_outputs(work, area, panel, count, sums, row_sums);
    }
  }
  return true;
}
