// A kernel as taps of phases, and its weights as tiles.
//
// A plain kernel has one phase: all its taps. Two kinds of layers make two rows of the output of several sums instead,
// each a phase with taps along one row of a plane; fewer products, exact but for rounding. With the kernel's rows g:
//
// A wide 3x3 kernel goes by Winograd's F(2,3), four products for six (Lavin, Gray 2016). Of the four rows d that a pair
// of rows reads, it takes
//   m0 = (d0 - d2) g0, m1 = (d1 + d2) (g0 + g1 + g2)/2, m2 = (d2 - d1) (g0 - g1 + g2)/2, m3 = (d1 - d3) g2,
// and the pair is m0 + m1 + m2 and m1 - m2 - m3. In both directions it would save more products, but not enough to pay
// for the transforms, nor for the digits.
//
// Nearest x2 and a 3x3 kernel, on the small map: row x[i] becomes the rows g0 x[i-1] + (g1 + g2) x[i] and
// (g0 + g1) x[i] + g2 x[i+1]. With m0 = (g0 + g1 + g2) x[i] they are m0 - g0 (x[i] - x[i-1]) and
// m0 + g2 (x[i+1] - x[i]): three products for four. Along a row the two output columns are phases of two taps each,
// since taps that fall on the same input pixel add up. That is exact at the borders too.

constexpr int kMostTaps = 128;  // of one phase
constexpr int kMostPhases = 6;

struct Phase {
  int column;  // of the output, where it is enlarged
  int sum;     // which of those that make two rows
  int taps;
  uint8_t rows[kMostTaps], columns[kMostTaps];  // of its planes, from a pixel's place there
};

struct Taps {
  Rows rows;
  int sums;                   // that make a row, or two: phases that follow each other
  int row_step, column_step;  // output rows and columns of a phase's pixel
  int count;                  // of phases
  Phase phases[kMostPhases];
  int total;                     // taps of all phases
  int top, left, bottom, right;  // how many pixels the taps reach beyond one's own
};

inline bool supported(const vaelens_kernel &k) {
  if (k.in_channels < 1 || k.out_channels < 1 || k.height < 1 || k.width < 1 || k.height * k.width > kMostTaps)
    return false;
  if (k.stride < 1 || k.stride > 4 || k.pad_top < 0 || k.pad_left < 0 || k.pad_top >= 64 || k.pad_left >= 64)
    return false;
  if (k.upsample == 1) return true;
  return k.upsample == 2 && k.height == 3 && k.width == 3 && k.stride == 1 && k.pad_top == 1 && k.pad_left == 1;
}

// A rule of shapes, so that results don't depend on a measurement. Narrow layers aren't made in pairs, nor is half
// precision, whose error would grow.
inline Rows rows_of(const vaelens_kernel &k) {
  if (k.upsample == 2) return Rows::enlarged;
  const bool pairs = k.arithmetic == VAELENS_SPLIT_BF16 && k.height == 3 && k.width == 3 && k.stride == 1 &&
                     k.pad_top == 1 && k.in_channels >= 64 && k.out_channels >= 64;
  return pairs ? Rows::pairs : Rows::plain;
}

inline void set_taps(const vaelens_kernel &k, Taps &taps) {
  const bool plain = (taps.rows = rows_of(k)) == Rows::plain, enlarged = taps.rows == Rows::enlarged;
  taps.sums = plain ? 1 : enlarged ? 3 : 4;
  taps.row_step = plain ? 1 : 2, taps.column_step = enlarged ? 2 : 1;
  taps.count = taps.sums * taps.column_step, taps.total = 0;
  for (int p = 0; p < taps.count; ++p) {
    Phase &phase = taps.phases[p];
    phase.column = p / taps.sums, phase.sum = p % taps.sums, phase.taps = 0;
    const int height = plain ? k.height : 1, width = enlarged ? 2 : k.width;
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x, ++phase.taps) {
        phase.rows[phase.taps] = static_cast<uint8_t>(y);
        phase.columns[phase.taps] = static_cast<uint8_t>(x + phase.column);
      }
    taps.total += phase.taps;
  }
  taps.top = enlarged ? 1 : k.pad_top, taps.left = enlarged ? 1 : k.pad_left;
  taps.bottom = enlarged ? 1 : k.height - 1 - k.pad_top, taps.right = enlarged ? 1 : k.width - 1 - k.pad_left;
}

// The rows of the planes for so many rows, or pairs of them; and the first one that a phase reads for the first.
inline int64_t plane_rows(const vaelens_kernel &k, const Taps &taps, int64_t rows) {
  if (taps.rows == Rows::pairs) return 4 * rows;
  if (taps.rows == Rows::enlarged) return 2 * rows + 1;  // one difference more than rows
  return (rows - 1) * k.stride + taps.top + taps.bottom + 1;
}

inline int64_t first_row(const Taps &taps, const Phase &phase, int64_t rows) {
  if (taps.rows == Rows::pairs) return phase.sum * rows;
  return phase.sum == 0 ? 0 : rows + phase.sum - 1;
}

inline int64_t in_blocks(const vaelens_kernel &k) { return (k.in_channels + kBlock - 1) / kBlock; }
inline int64_t out_blocks(const vaelens_kernel &k) { return (k.out_channels + kOutBlock - 1) / kOutBlock; }
// The halves of each value, and so the tiles of 32 input and 16 output channels.
inline int halves(const vaelens_kernel &k) { return k.arithmetic == VAELENS_SPLIT_BF16 ? 2 : 1; }

int64_t packed_bytes(const vaelens_kernel &k) {
  if (!supported(k)) return -1;
  const int64_t taps = rows_of(k) == Rows::plain ? static_cast<int64_t>(k.height) * k.width : 12;
  return out_blocks(k) * in_blocks(k) * taps * halves(k) * kTile * 2;
}

struct Packing {
  const vaelens_kernel *kernel;
  const Taps *taps;
  const float *weights;
  uint16_t *packed;
};

// What a sum multiplies: a combination of the kernel's rows, given in one column.
inline Vector combined(Rows rows, int sum, Vector first, Vector second, Vector third) {
  if (rows == Rows::enlarged) return sum == 0 ? first + second + third : sum == 1 ? -first : third;
  if (sum == 0 || sum == 3) return sum == 0 ? first : third;
  return (sum == 1 ? first + second + third : first - second + third) * 0.5f;
}

// 16 input channels of one output channel: a tap of a phase, of the kernel's taps, [kMostTaps][kBlock].
inline Vector tap_weights(const Taps &taps, const Phase &phase, int tap, const float *kernel) {
  if (taps.rows == Rows::plain) return load(kernel + tap * kBlock);
  Vector total = {};
  for (int x = 0; x < 3; ++x) {
    // On an enlarged map the first of the output's columns has its first tap, the second its last one for itself.
    const int place = taps.rows == Rows::pairs ? x : phase.column ? x / 2 : (x + 1) / 2;
    if (place == tap)
      total += combined(taps.rows, phase.sum, load(kernel + x * kBlock), load(kernel + (3 + x) * kBlock),
                        load(kernel + (6 + x) * kBlock));
  }
  return total;
}

// One row of a half of a tile: pairs of input channels, each beside those of the other output channels.
inline void scatter(const uint16_t *row, uint16_t *tile) {
  for (int pair = 0; pair < kBlock / 2; ++pair) memcpy(tile + pair * 32, row + pair * 2, 4);
}

// Packs 16 output channels: [phase][block of input channels][tap][high, low][pair][channel][2].
bool pack_block(void *context, int64_t block, int) {
  const Packing &packing = *static_cast<const Packing *>(context);
  const vaelens_kernel &k = *packing.kernel;
  const Taps &taps = *packing.taps;
  const int64_t values = halves(k) * kTile, area = k.height * k.width, of_block = taps.total * in_blocks(k) * values;
  uint16_t *whole = packing.packed + block * of_block;
  if ((block + 1) * kOutBlock > k.out_channels) memset(whole, 0, of_block * sizeof *whole);
  for (int64_t in = 0; in < in_blocks(k); ++in)
    for (int n = 0; n < kOutBlock && block * kOutBlock + n < k.out_channels; ++n) {
      const int64_t out = block * kOutBlock + n;
      alignas(64) float kernel[kMostTaps * kBlock];
      const int64_t left = k.in_channels - in * kBlock, channels = left < kBlock ? left : kBlock;
      const float *weights = packing.weights + (out * k.in_channels + in * kBlock) * area;
      for (int64_t tap = 0; tap < area; ++tap) {
        for (int64_t i = 0; i < channels; ++i) kernel[tap * kBlock + i] = weights[i * area + tap];
        for (int64_t i = channels; i < kBlock; ++i) kernel[tap * kBlock + i] = 0;
      }
      uint16_t *of_phase = whole;
      for (int p = 0; p < taps.count; ++p) {
        const Phase &phase = taps.phases[p];
        for (int tap = 0; tap < phase.taps; ++tap) {
          alignas(64) uint16_t high[kBlock], low[kBlock];
          const Vector a = tap_weights(taps, phase, tap, kernel), b = tap_weights(taps, phase, tap, kernel + 16);
          uint16_t *to = of_phase + (in * phase.taps + tap) * values + n * 2;
          to_bf16(a, b, high);
          scatter(high, to);
          if (values > kTile) {
            to_bf16(a - from_bf16(high), b - from_bf16(high + 16), low);
            scatter(low, to + kTile);
          }
        }
        of_phase += in_blocks(k) * phase.taps * values;
      }
    }
  return true;
}

int pack(const vaelens_kernel &kernel, const float *weights, int threads, void *packed) {
  Taps taps;
  set_taps(kernel, taps);
  Packing packing = {&kernel, &taps, weights, static_cast<uint16_t *>(packed)};
  parallel(threads, out_blocks(kernel), pack_block, &packing);
  return VAELENS_OK;
}
