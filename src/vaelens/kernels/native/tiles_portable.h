// The twin of tiles_amx.h in plain C++: the same values in the same order, so that packing, loops and epilogues are
// tested on any processor. Slow.

inline void begin_tiles() {}
inline void end_tiles() {}

inline float widened(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

struct Accumulators {
  float sums[kPixels / 16][16][16];

  void clear() { memset(sums, 0, sizeof sums); }
  void write(float *to) const { memcpy(to, sums, sizeof sums); }
  void read(const float *from) { memcpy(sums, from, sizeof sums); }

  // sums[pixel][channel] += the product of pixels and one tile of weights.
  void add_bf16(const uint16_t *left, int64_t distance, const uint16_t *right) {
    for (int m = 0; m < kPixels; ++m)
      for (int pair = 0; pair < 16; ++pair) {
        const float even = widened(left[m * distance + 2 * pair]), odd = widened(left[m * distance + 2 * pair + 1]);
        for (int n = 0; n < 16; ++n)
          sums[m / 16][m % 16][n] +=
              even * widened(right[pair * 32 + 2 * n]) + odd * widened(right[pair * 32 + 2 * n + 1]);
      }
  }

  void add_split(const uint16_t *high, const uint16_t *low, int64_t distance, const uint16_t *weights) {
    add_bf16(low, distance, weights);
    add_bf16(high, distance, weights);
    add_bf16(high, distance, weights + 512);
  }
};

typedef float Vector __attribute__((vector_size(64)));

inline Vector silu(Vector x) {
  for (int i = 0; i < 16; ++i) {
    const float t = x[i] * -1.44269504f < 126.0f ? x[i] * -1.44269504f : x[i] == x[i] ? 126.0f : x[i];
    const float whole = floorf(t), f = t - whole;
    const float power =
        ((((kPower[5] * f + kPower[4]) * f + kPower[3]) * f + kPower[2]) * f + kPower[1]) * f + kPower[0];
    x[i] /= 1.0f + ldexpf(power, whole < -200.0f ? -200 : static_cast<int>(whole == whole ? whole : 0.0f));
  }
  return x;
}

inline uint16_t nearest_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void to_bf16(Vector a, Vector b, uint16_t *to) {
  for (int i = 0; i < 16; ++i) to[i] = nearest_bf16(a[i]), to[16 + i] = nearest_bf16(b[i]);
}

inline Vector from_bf16(const uint16_t *from) {
  Vector values;
  for (int i = 0; i < 16; ++i) values[i] = widened(from[i]);
  return values;
}

inline void clear_block(uint16_t *to) { memset(to, 0, 64); }

inline void prefetch_input(const float *) {}
inline void prefetch_output(const float *) {}
