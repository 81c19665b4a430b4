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
  float sums[4][16][16];

  void clear() { memset(sums, 0, sizeof sums); }
  void write(float *to) const { memcpy(to, sums, sizeof sums); }

  // sums[pixel][channel] += the product of 16 pixels and one tile of weights.
  static void multiply(float (&sums)[16][16], const uint16_t *left, int64_t pixels, const uint16_t *right) {
    for (int m = 0; m < 16; ++m)
      for (int pair = 0; pair < 16; ++pair) {
        const float even = widened(left[m * pixels + 2 * pair]), odd = widened(left[m * pixels + 2 * pair + 1]);
        for (int n = 0; n < 16; ++n)
          sums[m][n] += even * widened(right[pair * 32 + 2 * n]) + odd * widened(right[pair * 32 + 2 * n + 1]);
      }
  }

  void add_bf16(const uint16_t *high, int64_t pixels, const uint16_t *weights) {
    multiply(sums[0], high, pixels, weights);
    multiply(sums[1], high, pixels, weights + 512);
    multiply(sums[2], high + 16 * pixels, pixels, weights);
    multiply(sums[3], high + 16 * pixels, pixels, weights + 512);
  }

  void add_split(const uint16_t *high, const uint16_t *low, int64_t pixels, const uint16_t *weights) {
    add_bf16(low, pixels, weights);
    add_bf16(high, pixels, weights);
    add_bf16(high, pixels, weights + 1024);
  }
};

typedef float NativeVector __attribute__((vector_size(64)));

inline NativeVector reciprocal(NativeVector x) { return 1.0f / x; }

inline uint16_t nearest_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void to_bf16(NativeVector a, NativeVector b, uint16_t *to) {
  for (int i = 0; i < 16; ++i) to[i] = nearest_bf16(a[i]), to[16 + i] = nearest_bf16(b[i]);
}

inline NativeVector from_bf16(const uint16_t *from) {
  NativeVector values;
  for (int i = 0; i < 16; ++i) values[i] = widened(from[i]);
  return values;
}

inline void clear_block(uint16_t *to) { memset(to, 0, 64); }

inline void prefetch_input(const float *) {}
inline void prefetch_output(const float *) {}
