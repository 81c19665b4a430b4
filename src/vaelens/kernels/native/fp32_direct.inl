// The direct way: each tap of the kernel is a product of the loaded window, seen from another pixel, with its weights.

constexpr int64_t kMostTaps = 1024;

// What a thread loads and multiplies at once.
struct DirectPlan {
  Columns columns;
  int64_t blocks, rows, panels, taps_at_once;
  int64_t window, sums, row_sums;  // floats

  DirectPlan(const vaelens_kernel &kernel, int64_t out_width)
      : columns(out_width, 1), blocks(quotient_up(kernel.in_channels, kBlock)) {
    const int64_t window_columns = (columns.widest() - 1) * kernel.stride + kernel.width;
    // Rows of the output at once: as many as a megabyte of window allows, so that weights read once serve them all.
    const int64_t row = blocks * window_columns * kBlock * int64_t(sizeof(float));
    rows = larger(1, smaller(16, ((1 << 20) / row - kernel.height) / kernel.stride + 1));
    window = blocks * ((rows - 1) * kernel.stride + kernel.height) * window_columns * kBlock;
    // Panels at once: as many as a quarter of a megabyte of sums allows, so that each pixel is written in long pieces.
    const int64_t panel = rows * columns.widest() * kPanel;
    panels = smaller(Panels(kernel.out_channels).count(), larger(1, (256 << 10) / int64_t(sizeof(float)) / panel));
    sums = panels * panel;
    row_sums = RowSums::floats(panels * kPanel);
    taps_at_once = larger(1, kDepth / blocks);
  }
  int64_t bytes() const { return (window + sums + row_sums) * int64_t(sizeof(float)); }
};

struct DirectWork {
  const vaelens_kernel *kernel;
  const vaelens_strip *strip;
  const DirectPlan *plan;
  int64_t items, groups;  // of rows; and of panels, which share the rows of an item
};

// A rectangle of the output.
struct PixelArea {
  int64_t row, rows, column, columns;
};

// Sums [rows, columns, width of the panel] of one panel over all taps and channels. A part of these is multiplied with
// all pixels before the next, so that its weights stay in the first-level cache.
inline void direct_products(const DirectWork &work, const PixelArea &area, const int64_t *taps, const float *window,
                            int64_t window_row, int64_t block_step, int64_t panel, float *sums) {
  const DirectPlan &plan = *work.plan;
  const vaelens_kernel &kernel = *work.kernel;
  const int64_t tap_count = int64_t(kernel.height) * kernel.width, in_channels = kernel.in_channels;
  const int width = Panels(kernel.out_channels).width(panel);
  const float *b = static_cast<const float *>(work.strip->weights) + tap_count * in_channels * panel * kPanel;
  const int64_t last_channels = in_channels - (plan.blocks - 1) * kBlock;
  bool more = false;
  for (int64_t tap = 0; tap < tap_count; tap += plan.taps_at_once)
    for (int64_t block = 0; block < plan.blocks; block += kDepth) {
      const int64_t count = smaller(plan.taps_at_once, tap_count - tap), blocks = smaller(kDepth, plan.blocks - block);
      const int64_t last = block + blocks == plan.blocks ? last_channels : kBlock;
      const float *next = b + count * ((blocks - 1) * kBlock + last) * width;
      for (int64_t row = 0; row < area.rows; ++row) {
        const Factors factors = {window + row * kernel.stride * window_row + block * block_step,
                                 taps + tap,
                                 count,
                                 blocks,
                                 block_step,
                                 last,
                                 b,
                                 next,
                                 more};
        multiply_rows(factors, area.columns, width, kernel.stride, sums + row * area.columns * width);
      }
      more = true;
      b = next;
    }
}

inline void direct_outputs(const DirectWork &work, const PixelArea &area, int64_t first_panel, int64_t panels,
                           const float *sums, int64_t panel_step, float *row_sums) {
  const vaelens_strip &strip = *work.strip;
  const int64_t channels = work.kernel->out_channels, first_channel = first_panel * kPanel;
  const int64_t written = smaller(panels * kPanel, channels - first_channel);
  const RowSums of_row(row_sums, panels * kPanel);
  for (int64_t y = 0; y < area.rows; ++y) {
    const int64_t row = area.row + y - strip.out_first;
    for (int64_t x = 0; x < area.columns; ++x) {
      const int64_t at = (row * strip.out_width + area.column + x) * channels + first_channel;
      for (int64_t channel = 0; channel < written; channel += kLanes) {
        const int64_t panel = channel / kPanel, width = Panels(channels).width(first_panel + panel);
        const int lanes = lanes_at(channel, written);
        const Vector bias = strip.bias ? load_some(strip.bias + first_channel + channel, lanes) : Vector{};
        const float *from = sums + panel * panel_step + (y * area.columns + x) * width + channel % kPanel;
        const Vector value = put(strip.output + at + channel, strip.residual ? strip.residual + at + channel : nullptr,
                                 load(from) + bias, lanes);
        if (strip.moments) of_row.add<1>(channel, &value, 1, x == 0);
      }
    }
    if (strip.moments)
      merge_moments(of_row, written, area.columns, area.column, strip.moments + 2 * (row * channels + first_channel));
  }
}

bool direct_item(void *context, int64_t number, int) {
  const DirectWork &work = *static_cast<const DirectWork *>(context);
  const DirectPlan &plan = *work.plan;
  const vaelens_kernel &kernel = *work.kernel;
  const vaelens_strip &strip = *work.strip;
  float *memory = static_cast<float *>(scratch(plan.bytes()));
  if (!memory) return false;
  float *window_at = memory, *sums = window_at + plan.window, *row_sums = sums + plan.sums;
  const int64_t item = number / work.groups, group = number % work.groups;
  const int64_t first = item * strip.out_rows / work.items, last = (item + 1) * strip.out_rows / work.items;
  const int64_t all_panels = Panels(kernel.out_channels).count();
  const int64_t first_panel = group * all_panels / work.groups, panels = (group + 1) * all_panels / work.groups;
  int64_t taps[kMostTaps];
  for (int64_t part = 0; part < plan.columns.count(); ++part) {
    const int64_t column = plan.columns.first(part);
    const PixelArea area = {strip.out_first + first, last - first, column, plan.columns.first(part + 1) - column};
    const Window window = {area.row * kernel.stride - kernel.pad_top, (area.rows - 1) * kernel.stride + kernel.height,
                           column * kernel.stride - kernel.pad_left, (area.columns - 1) * kernel.stride + kernel.width};
    const int64_t block_step = window.pixels() * kBlock, row_step = window.columns * kBlock;
    load_window(kernel, kernel.upsample, strip, window, 0, plan.blocks, window_at, block_step);
    for (int64_t tap = 0; tap < int64_t(kernel.height) * kernel.width; ++tap)
      taps[tap] = tap / kernel.width * row_step + tap % kernel.width * kBlock;
    for (int64_t panel = first_panel; panel < panels; panel += plan.panels) {
      const int64_t count = smaller(plan.panels, panels - panel), panel_step = area.rows * area.columns * kPanel;
      for (int64_t i = 0; i < count; ++i)
        direct_products(work, area, taps, window_at, row_step, block_step, panel + i, sums + i * panel_step);
      direct_outputs(work, area, panel, count, sums, panel_step, row_sums);
    }
  }
  return true;
}
