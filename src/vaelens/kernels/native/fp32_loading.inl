// Loading: a window of the input, normalised and activated, into cache, by blocks of 16 channels.

// Where a window lies in the input, enlarged `upsample` times. Outside the map, and outside the rows given, are zeros.
struct Window {
  int64_t row, rows, column, columns;
  int64_t pixels() const { return rows * columns; }
};

// Blocks of channels that are loaded together: two are 128 bytes of each pixel, which the cache fetches at once.
constexpr int kBlocksAtOnce = 2;

// (x - mean) * scale + shift of one block of channels; channels behind the last are zeros.
struct Normalisation {
  float mean[kBlock], scale[kBlock], shift[kBlock];
};

template <bool affine, int activation>
inline Vector loaded(Vector x, const Normalisation &normalisation, int part) {
  if (affine) {
    x = x - load(normalisation.mean + part * kLanes);
    x = multiply_add(x, load(normalisation.scale + part * kLanes), load(normalisation.shift + part * kLanes));
  }
  if (activation == VAELENS_SILU) x = silu(x);
  if (activation == VAELENS_RELU) x = relu(x);
  return x;
}

// One row: pixels [first, last) of the map to `to`, each `upsample` times but for what lies outside [begin, end) of the
// enlarged row; blocks of channels are `block_step` floats apart.
template <bool affine, int activation>
void load_row(const float *row, int64_t stride, int64_t channels, int64_t block, int64_t blocks,
              const Normalisation *normalisations, int64_t begin, int64_t end, int upsample, float *to,
              int64_t block_step) {
  for (int64_t x = begin; x < end;) {
    const int64_t source = upsample == 1 ? x : x / upsample;
    const int64_t next = smaller(end, upsample == 1 ? x + 1 : (source + 1) * upsample);
    const float *pixel = row + source * stride;
    // The next blocks of this pixel are read when the whole window has been, too far away for the processor to foresee.
    for (int b = 0; b < kBlocksAtOnce; ++b) __builtin_prefetch(pixel + (block + kBlocksAtOnce + b) * kBlock, 0, 2);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t channel = (block + b) * kBlock;
      float *at = to + b * block_step + (x - begin) * kBlock;
      const bool whole = channels - channel >= kBlock;
      for (int part = 0; part < kParts; ++part) {
        const int64_t first = channel + part * kLanes;
        const Vector x_in = whole              ? load(pixel + first)
                            : first < channels ? load_some(pixel + first, static_cast<int>(channels - first))
                                               : Vector{};
        const Vector value = loaded<affine, activation>(x_in, normalisations[b], part);
        for (int64_t copy = 0; copy < next - x; ++copy) store(at + copy * kBlock + part * kLanes, value);
      }
    }
    x = next;
  }
}

using LoadRow = void (*)(const float *, int64_t, int64_t, int64_t, int64_t, const Normalisation *, int64_t, int64_t,
                         int, float *, int64_t);

template <bool affine>
LoadRow row_loader(int activation) {
  if (activation == VAELENS_SILU) return load_row<affine, VAELENS_SILU>;
  if (activation == VAELENS_RELU) return load_row<affine, VAELENS_RELU>;
  return load_row<affine, VAELENS_LINEAR>;
}

// Blocks [block, block + blocks) of a window of the enlarged map to `to`: [blocks, rows, columns, 16], blocks
// `block_step` floats apart.
inline void load_window(const vaelens_kernel &kernel, int upsample, const vaelens_strip &strip, const Window &window,
                        int64_t block, int64_t blocks, float *to, int64_t block_step) {
  const int64_t channels = kernel.in_channels;
  const LoadRow load_one = strip.mean ? row_loader<true>(strip.activation) : row_loader<false>(strip.activation);
  const int64_t width = strip.in_width * upsample;
  const int64_t top = larger(0, strip.in_first) * upsample;
  const int64_t bottom = smaller(strip.in_height, strip.in_first + strip.in_rows) * upsample;
  const int64_t begin = smaller(larger(window.column, 0), window.column + window.columns);
  const int64_t end = larger(begin, smaller(width, window.column + window.columns));
  for (int64_t b = 0; b < blocks; b += kBlocksAtOnce) {
    const int64_t count = smaller(kBlocksAtOnce, blocks - b);
    Normalisation normalisations[kBlocksAtOnce];
    if (strip.mean) {
      memset(normalisations, 0, sizeof normalisations);
      for (int64_t i = 0; i < count * kBlock; ++i) {
        const int64_t channel = (block + b) * kBlock + i;
        if (channel >= channels) break;
        Normalisation &one = normalisations[i / kBlock];
        one.mean[i % kBlock] = strip.mean[channel];
        one.scale[i % kBlock] = strip.scale[channel];
        one.shift[i % kBlock] = strip.shift[channel];
      }
    }
    float *at = to + b * block_step;
    for (int64_t y = window.row; y < window.row + window.rows; ++y, at += window.columns * kBlock) {
      const bool inside = y >= top && y < bottom && begin < end;
      const bool repeated = inside && upsample > 1 && y > window.row && y % upsample != 0;
      for (int64_t i = 0; i < count; ++i) {
        float *row = at + i * block_step;
        if (!inside) {
          memset(row, 0, static_cast<size_t>(window.columns) * kBlock * sizeof(float));
        } else if (repeated) {
          memcpy(row, row - window.columns * kBlock, static_cast<size_t>(window.columns) * kBlock * sizeof(float));
        } else {
          memset(row, 0, static_cast<size_t>(begin - window.column) * kBlock * sizeof(float));
          memset(row + (end - window.column) * kBlock, 0,
                 static_cast<size_t>(window.column + window.columns - end) * kBlock * sizeof(float));
        }
      }
      if (inside && !repeated)
        load_one(strip.input + (y / upsample - strip.in_first) * strip.in_width * strip.in_stride, strip.in_stride,
                 channels, block + b, count, normalisations, begin, end, upsample,
                 at + (begin - window.column) * kBlock, block_step);
    }
  }
}
