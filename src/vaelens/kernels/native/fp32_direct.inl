// The direct way: each tap of the kernel is a product of the loaded window, seen from another pixel, with its weights.

constexpr int64_t kMostTaps = 1024;

struct DirectPlan {
  Columns columns;
  int64_t blocks, rows, window_rows, window_columns, window, sums;  // window, sums: floats

  DirectPlan(const vaelens_kernel &kernel, int64_t out_width)
      : columns(out_width, 1), blocks(quotient_up(kernel.in_channels, kBlock)) {
    window_columns = (columns.widest() - 1) * kernel.stride + kernel.width;
    // Rows of the output at once: as many as a megabyte of window allows, so that weights read once serve them all.
    const int64_t row = blocks * window_columns * kBlock * int64_t(sizeof(float));
    rows = ((1 << 20) / row - kernel.height) / kernel.stride + 1;
    rows = larger(1, smaller(rows, 16));
    window_rows = (rows - 1) * kernel.stride + kernel.height;
    window = blocks * window_rows * window_columns * kBlock;
    sums = columns.widest() * kPanel;
  }
  int64_t bytes() const { return (window + sums) * int64_t(sizeof(float)); }
};

struct DirectWork {
  const vaelens_kernel *kernel;
  const vaelens_strip *strip;
  const DirectPlan *plan;
  int64_t items;
};

// Sums of one row and panel to the output.
inline void direct_outputs(const DirectWork &work, int64_t row, int64_t column, int64_t pixels, int64_t panel, int width,
                           const float *sums) {
  const vaelens_strip &strip = *work.strip;
  const int64_t channels = work.kernel->out_channels;
  for (int part = 0; part < width; part += kLanes) {
    const int64_t channel = panel * kPanel + part;
    const int lanes = lanes_at(channel, channels);
    if (lanes <= 0) break;
    const Vector bias = strip.bias ? load_some(strip.bias + channel, lanes) : Vector{};
    const int64_t at = (row * strip.out_width + column) * channels + channel;
    const Output output = {strip.output + at, strip.residual ? strip.residual + at : nullptr};
    for (int64_t x = 0; x < pixels; ++x) output.put(x * channels, load(sums + x * width + part) + bias, lanes);
    if (strip.moments)
      add_moments(strip.output + at, pixels, channels, lanes, column, strip.moments + 2 * (row * channels + channel));
  }
}

bool direct_item(void *context, int64_t item, int) {
  const DirectWork &work = *static_cast<const DirectWork *>(context);
  const DirectPlan &plan = *work.plan;
  const vaelens_kernel &kernel = *work.kernel;
  const vaelens_strip &strip = *work.strip;
  float *memory = static_cast<float *>(scratch(plan.bytes()));
  if (!memory) return false;
  float *window_at = memory, *sums = memory + plan.window;
  const Panels out(kernel.out_channels);
  const float *weights = static_cast<const float *>(strip.weights);
  const int64_t tap_count = int64_t(kernel.height) * kernel.width;
  const int64_t first = item * strip.out_rows / work.items, last = (item + 1) * strip.out_rows / work.items;
  int64_t taps[kMostTaps];
  for (int64_t block = 0; block < plan.columns.count(); ++block) {
    const int64_t column = plan.columns.first(block), pixels = plan.columns.first(block + 1) - column;
    const Window window = {(strip.out_first + first) * kernel.stride - kernel.pad_top,
                           (last - first - 1) * kernel.stride + kernel.height, column * kernel.stride - kernel.pad_left,
                           (pixels - 1) * kernel.stride + kernel.width};
    const int64_t block_step = window.pixels() * kBlock, row_step = window.columns * kBlock;
    load_window(kernel, strip, window, 0, plan.blocks, window_at, block_step);
    for (int64_t tap = 0; tap < tap_count; ++tap)
      taps[tap] = tap / kernel.width * row_step + tap % kernel.width * kBlock;
    for (int64_t panel = 0; panel < out.count(); ++panel) {
      const int width = out.width(panel);
      for (int64_t row = first; row < last; ++row) {
        const float *panel_weights = weights + tap_count * kernel.in_channels * panel * kPanel;
        const Factors factors = {window_at + (row - first) * kernel.stride * row_step,
                                 taps,
                                 tap_count,
                                 plan.blocks,
                                 block_step,
                                 kernel.in_channels - (plan.blocks - 1) * kBlock,
                                 panel_weights,
                                 panel_weights};
        multiply_rows(factors, pixels, width, kernel.stride, sums);
        direct_outputs(work, row, column, pixels, panel, width, sums);
      }
    }
  }
  return true;
}
