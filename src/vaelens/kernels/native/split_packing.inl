// A kernel as taps of one or four phases, and its weights as tiles.
//
// Nearest x2 and a 3x3 convolution are four 2x2 convolutions, one for each phase (row and column modulo 2) of the
// output, on the small map: taps that fall on the same input pixel add up. That is exact, also at the borders.
//
// A wide 3x3 kernel is applied to pairs of rows by Winograd's F(2,3), of four products for six (Lavin, Gray 2016). From
// the four rows d that a pair reads, four planes are made, each with three taps along the row:
//   m0 = (d0 - d2) g0, m1 = (d1 + d2) (g0 + g1 + g2)/2, m2 = (d2 - d1) (g0 - g1 + g2)/2, m3 = (d1 - d3) g2,
// where g are the kernel's rows. The pair is m0 + m1 + m2 and m1 - m2 - m3. In both directions it would save more
// products, but not enough to pay for the transforms, nor for the digits.

constexpr int kMostTaps = 128;  // of one phase

struct Phase {
  int row, column;  // of the output, where it is enlarged; `row` is the plane where there are several
  int taps;
  int8_t dy[kMostTaps], dx[kMostTaps];  // of the input, from the pixel at `stride` times the output's place
};

struct Taps {
  int count;                  // of phases
  int planes;                 // 4 for Winograd's, each with its phase; else 1
  int row_step, column_step;  // output rows and columns of a phase's pixel
  Phase phases[4];
  int total;                     // taps of all phases
  int top, left, bottom, right;  // how far the taps reach from that pixel: dy in [-top, bottom], dx in [-left, right]
};

inline bool supported(const vaelens_kernel &k) {
  if (k.in_channels < 1 || k.out_channels < 1 || k.height < 1 || k.width < 1 || k.height * k.width > kMostTaps)
    return false;
  if (k.stride < 1 || k.stride > 4 || k.pad_top < 0 || k.pad_left < 0 || k.pad_top >= 64 || k.pad_left >= 64)
    return false;
  if (k.upsample == 1) return true;
  return k.upsample == 2 && k.height == 3 && k.width == 3 && k.stride == 1 && k.pad_top == 1 && k.pad_left == 1;
}

// Whether pairs of rows are made of four planes: a rule of shapes, so that results don't depend on a measurement.
// Narrow layers and half precision, whose error would grow, aren't.
inline bool in_pairs(const vaelens_kernel &k) {
  return k.arithmetic == VAELENS_SPLIT_BF16 && k.height == 3 && k.width == 3 && k.stride == 1 && k.upsample == 1 &&
         k.pad_top == 1 && k.in_channels >= 64 && k.out_channels >= 64;
}

// Which of two taps of a phase a tap of the 3x3 kernel falls on.
inline int merged_tap(int phase, int tap) { return phase ? tap / 2 : (tap + 1) / 2; }

inline void set_taps(const vaelens_kernel &k, Taps &taps) {
  const bool enlarged = k.upsample == 2, pairs = in_pairs(k);
  taps.count = enlarged || pairs ? 4 : 1;
  taps.planes = pairs ? 4 : 1;
  taps.row_step = enlarged || pairs ? 2 : 1, taps.column_step = enlarged ? 2 : 1;
  taps.total = 0;
  for (int p = 0; p < taps.count; ++p) {
    Phase &phase = taps.phases[p];
    phase.row = enlarged ? p / 2 : p, phase.column = enlarged ? p % 2 : 0, phase.taps = 0;
    const int height = enlarged ? 2 : pairs ? 1 : k.height, width = enlarged ? 2 : k.width;
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x, ++phase.taps) {
        phase.dy[phase.taps] = static_cast<int8_t>(enlarged ? y - 1 + phase.row : y - k.pad_top);
        phase.dx[phase.taps] = static_cast<int8_t>(enlarged ? x - 1 + phase.column : x - k.pad_left);
      }
    taps.total += phase.taps;
  }
  taps.top = enlarged ? 1 : k.pad_top, taps.left = enlarged ? 1 : k.pad_left;
  taps.bottom = enlarged ? 1 : k.height - 1 - k.pad_top, taps.right = enlarged ? 1 : k.width - 1 - k.pad_left;
}

inline int64_t in_blocks(const vaelens_kernel &k) { return (k.in_channels + kBlock - 1) / kBlock; }
inline int64_t out_blocks(const vaelens_kernel &k) { return (k.out_channels + kOutBlock - 1) / kOutBlock; }
// The halves of each value, and so the tiles of 32 input and 16 output channels.
inline int halves(const vaelens_kernel &k) { return k.arithmetic == VAELENS_SPLIT_BF16 ? 2 : 1; }

int64_t packed_bytes(const vaelens_kernel &k) {
  if (!supported(k)) return -1;
  const int64_t taps = k.upsample == 2 ? 16 : in_pairs(k) ? 12 : static_cast<int64_t>(k.height) * k.width;
  return out_blocks(k) * in_blocks(k) * taps * halves(k) * kTile * 2;
}

struct Packing {
  const vaelens_kernel *kernel;
  const Taps *taps;
  const float *weights;
  uint16_t *packed;
};

// The weight of one tap of a phase: of a 3x3 kernel on an enlarged map, the sum of those that fall on it; of a plane
// for pairs of rows, the kernel's rows as they are combined there.
inline float tap_weight(const vaelens_kernel &k, const Phase &phase, int tap, const float *weights) {
  if (in_pairs(k)) {
    const double first = weights[tap], second = weights[3 + tap], third = weights[6 + tap];
    const double combined[4] = {first, (first + second + third) / 2, (first - second + third) / 2, third};
    return static_cast<float>(combined[phase.row]);
  }
  if (k.upsample == 1) return weights[tap];
  double sum = 0;
  for (int y = 0; y < 3; ++y)
    for (int x = 0; x < 3; ++x)
      if (merged_tap(phase.row, y) == tap / 2 && merged_tap(phase.column, x) == tap % 2) sum += weights[3 * y + x];
  return static_cast<float>(sum);
}

// Packs 16 output channels: [phase][block of input channels][tap][high, low][pair][channel][2].
bool pack_block(void *context, int64_t block, int) {
  const Packing &packing = *static_cast<const Packing *>(context);
  const vaelens_kernel &k = *packing.kernel;
  const int tiles = halves(k), area = k.height * k.width;
  uint16_t *to = packing.packed + block * packing.taps->total * in_blocks(k) * tiles * kTile;
  for (int p = 0; p < packing.taps->count; ++p) {
    const Phase &phase = packing.taps->phases[p];
    for (int64_t in = 0; in < in_blocks(k); ++in)
      for (int tap = 0; tap < phase.taps; ++tap, to += tiles * kTile)
        for (int n = 0; n < kOutBlock; ++n) {
          const int64_t out = block * kOutBlock + n;
          alignas(64) float row[kBlock] = {};
          for (int i = 0; i < kBlock && out < k.out_channels && in * kBlock + i < k.in_channels; ++i)
            row[i] = tap_weight(k, phase, tap, packing.weights + (out * k.in_channels + in * kBlock + i) * area);
          alignas(64) uint16_t high[kBlock], low[kBlock];
          const Vector a = load(row), b = load(row + 16);
          to_bf16(a, b, high);
          to_bf16(a - from_bf16(high), b - from_bf16(high + 16), low);
          for (int i = 0; i < kBlock; ++i) {
            const int place = i / 2 * 32 + n * 2 + i % 2;
            to[place] = high[i];
            if (tiles == 2) to[kTile + place] = low[i];
          }
        }
  }
  return true;
}

int pack(const vaelens_kernel &kernel, const float *weights, void *packed) {
  Taps taps;
  set_taps(kernel, taps);
  Packing packing = {&kernel, &taps, weights, static_cast<uint16_t *>(packed)};
  parallel(1, out_blocks(kernel), pack_block, &packing);
  return VAELENS_OK;
}
