// Winograd's way: tiles of the loaded window become 36 values each, which are multiplied; sums become 4x4 pixels. A map
// that is enlarged is never made: each phase of it has tiles of the small map, of 25 values.

// Whether the output is computed in four phases: those of the usual padding.
bool in_phases(const vaelens_kernel &kernel) {
  return kernel.upsample == 2 && kernel.pad_top == 1 && kernel.pad_left == 1;
}

// Whether the transformed weights are kept: they are four times as large as the weights, or eleven times with phases.
// Where these are many, that would be hundreds of megabytes in a network, which no cache holds, and transforming them
// for each item costs little beside the products with its many tiles.
bool transforms_early(const vaelens_kernel &kernel) {
  return int64_t(kernel.in_channels) * kernel.out_channels < 256 * 384;
}

// Blocks of input channels whose weights are multiplied with all tiles before the next: with AVX-512 those of a panel
// take 16 KB of the first-level cache. Transformed late, those of two panels and half as many blocks take 600 KB of the
// second.
constexpr int64_t kDepth = 8, kLateDepth = 4, kLatePanels = 2;
constexpr int64_t kFilterStep = (kLateDepth * kBlock + 1) * kPanel;  // no power of two: other sets of the cache

// How many tiles a thread holds in its cache. Rows and columns are those of a phase.
struct WinogradPlan {
  int64_t step, phases;  // from one pixel of a phase to the next
  int64_t in, frequencies;
  Columns columns;
  bool early;  // the weights are packed as their transformed values, not as their nine taps
  int64_t blocks, tile_rows, tiles, panels;
  int64_t window, values, filters, sums, row_sums;  // floats

  WinogradPlan(const vaelens_kernel &kernel, int64_t out_width)
      : step(in_phases(kernel) ? 2 : 1),
        phases(step * step),
        in(in_phases(kernel) ? Tile<2>::in : Tile<3>::in),
        frequencies(in * in),
        columns(quotient_up(out_width, step), kOut),
        early(transforms_early(kernel)),
        blocks(quotient_up(kernel.in_channels, kBlock)) {
    const Panels out(kernel.out_channels);
    // Transforming nine taps costs as much as multiplying by them for three tiles: more tiles, less of it.
    tile_rows = larger(1, (early ? 32 : 64) / columns.widest());
    tiles = (tile_rows * columns.widest()) | 1;  // odd, so that the values of a tile fall in different cache sets
    const int64_t edge = in - kOut;
    window = smaller(blocks, kBlocksAtOnce) * (tile_rows * kOut + edge) * (columns.widest() * kOut + edge) * kBlock;
    values = blocks * frequencies * tiles * kBlock;
    // Sums of as many panels as fit beside the values.
    const int64_t panel = frequencies * tiles * kPanel;
    panels = smaller(out.count(), early ? larger(1, (512 << 10) / int64_t(sizeof(float)) / panel) : kLatePanels);
    sums = panels * panel;
    filters = early ? 0 : panels * frequencies * kFilterStep;
    row_sums = kOut * RowSums::floats(panels * kPanel);
  }
  int64_t tile_rows_of(int64_t out_rows) const { return quotient_up(quotient_up(out_rows, step), kOut); }
  int64_t bytes() const { return (window + values + filters + sums + row_sums) * int64_t(sizeof(float)); }
};

struct WinogradWork {
  const vaelens_kernel *kernel;
  const vaelens_strip *strip;
  const WinogradPlan *plan;
  int64_t items;
};

// A rectangle of tiles of a phase: the first one's pixel of it, and how many.
struct TileArea {
  Phase phase;
  int64_t row, rows, column, columns;
  int64_t count() const { return rows * columns; }
};

template <int taps>
inline void winograd_values(const WinogradWork &work, const TileArea &area, float *window_at, float *values) {
  const WinogradPlan &plan = *work.plan;
  const vaelens_kernel &kernel = *work.kernel;
  constexpr int edge = taps - 1, frequencies = Tile<taps>::frequencies;
  const Window window = {area.row - kernel.pad_top + area.phase.row, area.rows * kOut + edge,
                         area.column - kernel.pad_left + area.phase.column, area.columns * kOut + edge};
  const int64_t block_step = window.pixels() * kBlock, row_step = window.columns * kBlock;
  for (int64_t first = 0; first < plan.blocks; first += kBlocksAtOnce) {
    const int64_t count = smaller(kBlocksAtOnce, plan.blocks - first);
    load_window(kernel, taps == 2 ? 1 : kernel.upsample, *work.strip, window, first, count, window_at, block_step);
    for (int64_t b = 0; b < count; ++b) {
      float *to = values + (first + b) * frequencies * plan.tiles * kBlock;
      for (int64_t y = 0; y < area.rows; ++y)
        for (int64_t x = 0; x < area.columns; ++x, to += kBlock)
          transform_input<taps>(window_at + b * block_step + y * kOut * row_step + x * kOut * kBlock, row_step, to,
                                plan.tiles * kBlock);
    }
  }
}

inline void early_products(const WinogradWork &work, const TileArea &area, int64_t first_panel, int64_t panels,
                           const float *values, float *sums) {
  const WinogradPlan &plan = *work.plan;
  const int64_t in_channels = work.kernel->in_channels;
  const Panels out(work.kernel->out_channels);
  const int64_t frequency_step = plan.tiles * kBlock, no_shift = 0;
  const int64_t frequencies = plan.frequencies, first = (area.phase.row * 2 + area.phase.column) * frequencies;
  const float *weights = static_cast<const float *>(work.strip->weights);
  const auto panel_at = [&](int64_t panel, int64_t frequency) {
    return weights +
           in_channels * (panel * plan.phases * frequencies * kPanel + (first + frequency) * out.width(panel));
  };
  for (int64_t frequency = 0; frequency < frequencies; ++frequency)
    for (int64_t panel = 0; panel < panels; ++panel) {
      const bool last_panel = panel + 1 == panels;
      const int width = out.width(first_panel + panel);
      const float *b = panel_at(first_panel + panel, frequency);
      const float *next = last_panel ? panel_at(first_panel, smaller(frequency + 1, frequencies - 1))
                                     : panel_at(first_panel + panel + 1, frequency);
      for (int64_t block = 0; block < plan.blocks; block += kDepth) {
        const bool last = block + kDepth >= plan.blocks;
        const int64_t block_step = frequencies * frequency_step;
        const Factors factors = {values + frequency * frequency_step + block * block_step,
                                 &no_shift,
                                 1,
                                 last ? plan.blocks - block : kDepth,
                                 block_step,
                                 last ? in_channels - (plan.blocks - 1) * kBlock : kBlock,
                                 b + block * kBlock * width,
                                 last ? next : b + (block + kDepth) * kBlock * width,
                                 block > 0};
        multiply_rows(factors, area.count(), width, 1, sums + (panel * frequencies + frequency) * plan.tiles * kPanel);
      }
    }
}

template <int taps>
inline void late_products(const WinogradWork &work, const TileArea &area, int64_t first_panel, int64_t panels,
                          const float *values, float *filters, float *sums) {
  const WinogradPlan &plan = *work.plan;
  const int64_t in_channels = work.kernel->in_channels;
  const Panels out(work.kernel->out_channels);
  constexpr int frequencies = Tile<taps>::frequencies;
  const int64_t frequency_step = plan.tiles * kBlock, block_step = frequencies * frequency_step, no_shift = 0;
  const float *weights = static_cast<const float *>(work.strip->weights);
  for (int64_t block = 0; block < plan.blocks; block += kLateDepth) {
    const int64_t blocks = smaller(kLateDepth, plan.blocks - block);
    const int64_t channels = smaller(blocks * kBlock, in_channels - block * kBlock);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int width = out.width(first_panel + panel);
      const float *nine = weights + 9 * (in_channels * (first_panel + panel) * kPanel + block * kBlock * width);
      float *to = filters + panel * frequencies * kFilterStep;
      for (int64_t k = 0; k < channels; ++k, nine += 9 * width, to += width)
        for (int part = 0; part < width; part += kLanes)
          transform_filter<taps>(nine + part, width, area.phase, to + part, kFilterStep);
    }
    for (int64_t frequency = 0; frequency < frequencies; ++frequency)
      for (int64_t panel = 0; panel < panels; ++panel) {
        const float *b = filters + (panel * frequencies + frequency) * kFilterStep;
        const Factors factors = {values + frequency * frequency_step + block * block_step,
                                 &no_shift,
                                 1,
                                 blocks,
                                 block_step,
                                 channels - (blocks - 1) * kBlock,
                                 b,
                                 b + kFilterStep,
                                 block > 0};
        multiply_rows(factors, area.count(), out.width(first_panel + panel), 1,
                      sums + (panel * frequencies + frequency) * plan.tiles * kPanel);
      }
  }
}

template <int taps>
inline void winograd_outputs(const WinogradWork &work, const TileArea &area, int64_t first_panel, int64_t panels,
                             const float *sums, float *row_sums) {
  const WinogradPlan &plan = *work.plan;
  const vaelens_strip &strip = *work.strip;
  const int64_t channels = work.kernel->out_channels, step = plan.step, first_row = strip.out_first / step;
  const int64_t first_channel = first_panel * kPanel, written = smaller(panels * kPanel, channels - first_channel);
  // Of the phase, which has one pixel less where an odd number is shared.
  const int64_t phase_rows = quotient_up(strip.out_rows - area.phase.row, step);
  const int64_t phase_width = quotient_up(strip.out_width - area.phase.column, step);
  const int64_t pixels = smaller(phase_width - area.column, area.columns * kOut);
  const int64_t even_pixels = smaller(quotient_up(strip.out_width, step) - area.column, area.columns * kOut);
  RowSums of_rows[kOut] = {{row_sums, 0}, {row_sums, 0}, {row_sums, 0}, {row_sums, 0}};
  for (int i = 0; i < kOut; ++i) of_rows[i] = RowSums(row_sums + i * RowSums::floats(panels * kPanel), panels * kPanel);
  for (int64_t y = 0; y < area.rows; ++y) {
    const int64_t row = area.row + y * kOut - first_row, rows = smaller(kOut, phase_rows - row);
    const int64_t out_row = row * step + area.phase.row;
    for (int64_t x = 0; x < area.columns; ++x) {
      const int64_t out_column = (area.column + x * kOut) * step + area.phase.column;
      const int64_t at = (out_row * strip.out_width + out_column) * channels + first_channel;
      const TileOutput output = {strip.output + at,
                                 strip.residual ? strip.residual + at : nullptr,
                                 step * strip.out_width * channels,
                                 step * channels,
                                 rows,
                                 smaller(kOut, pixels - x * kOut),
                                 strip.moments ? of_rows : nullptr,
                                 x == 0};
      for (int64_t channel = 0; channel < written; channel += kLanes) {
        const int64_t panel = channel / kPanel, width = Panels(channels).width(first_panel + panel);
        const int lanes = lanes_at(channel, written);
        const Vector bias = strip.bias ? load_some(strip.bias + first_channel + channel, lanes) : Vector{};
        const float *from = sums + panel * plan.frequencies * plan.tiles * kPanel + (y * area.columns + x) * width;
        transform_output<taps>(from + channel % kPanel, plan.tiles * kPanel, bias, output, channel, lanes);
      }
    }
    if (!strip.moments || pixels <= 0) continue;
    const int64_t before = area.column * step + (area.phase.column ? even_pixels : 0);
    for (int64_t r = 0; r < rows; ++r)
      merge_moments(of_rows[r], written, pixels, before,
                    strip.moments + 2 * ((out_row + r * step) * channels + first_channel));
  }
}

template <int taps>
bool winograd_item(void *context, int64_t item, int) {
  const WinogradWork &work = *static_cast<const WinogradWork *>(context);
  const WinogradPlan &plan = *work.plan;
  const vaelens_strip &strip = *work.strip;
  float *memory = static_cast<float *>(scratch(plan.bytes()));
  if (!memory) return false;
  float *values = memory, *filters = values + plan.values, *sums = filters + plan.filters;
  float *row_sums = sums + plan.sums, *window = row_sums + plan.row_sums;
  const int64_t tile_rows = plan.tile_rows_of(strip.out_rows), panels = Panels(work.kernel->out_channels).count();
  const int64_t first = item * tile_rows / work.items, last = (item + 1) * tile_rows / work.items;
  for (int64_t block = 0; block < plan.columns.count(); ++block) {
    const int64_t column = plan.columns.first(block), end = plan.columns.first(block + 1);
    for (int phase = 0; phase < plan.phases; ++phase) {
      const TileArea area = {{phase / 2, phase % 2},
                             strip.out_first / plan.step + first * kOut,
                             last - first,
                             column * kOut,
                             end - column};
      winograd_values<taps>(work, area, window, values);
      for (int64_t panel = 0; panel < panels; panel += plan.panels) {
        const int64_t count = smaller(plan.panels, panels - panel);
        if (plan.early)
          early_products(work, area, panel, count, values, sums);
        else
          late_products<taps>(work, area, panel, count, values, filters, sums);
        winograd_outputs<taps>(work, area, panel, count, sums, row_sums);
      }
    }
  }
  return true;
}
