// The tile operations on AMX, and the few vector operations that need AVX-512's own instructions.
//
// A tile has 16 rows of 64 bytes. 4 and 5 accumulate 16 pixels x 16 output channels each, in fp32; 0 holds 16 pixels
// of 32 input channels, 2 holds 32 input channels of 16 output channels. The others stay as they are configured, on
// purpose: a processor renames tiles from a small pool, which two threads of one core share, and an unused tile leaves
// it one more. With all eight in use, a core whose other thread is busy multiplies at half the speed.

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

inline void begin_tiles() {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) shapes.bytes_per_row[i] = 64, shapes.rows[i] = 16;
  __asm__ volatile("" ::: "memory");  // GCC's _tile_loadconfig says that it reads the first bytes only
  _tile_loadconfig(&shapes);
}

inline void end_tiles() { _tile_release(); }

struct Accumulators {
  void clear() {
    _tile_zero(4);
    _tile_zero(5);
  }

  void write(float *to) const {  // [kPixels][16]
    _tile_stored(4, to, 64);
    _tile_stored(5, to + 256, 64);
  }

  void read(const float *from) {
    _tile_loadd(4, from, 64);
    _tile_loadd(5, from + 256, 64);
  }

  // Three products of 32 input channels: low * high + high * high + high * low. `distance` is that of two pixels in
  // values; `weights` are two tiles, high and low.
  void add_split(const uint16_t *high, const uint16_t *low, int64_t distance, const uint16_t *weights) {
    const int64_t bytes = distance * 2, second = distance * 16;
    _tile_loadd(2, weights, 64);
    _tile_loadd(0, low, bytes);
    _tile_dpbf16ps(4, 0, 2);
    _tile_loadd(0, low + second, bytes);
    _tile_dpbf16ps(5, 0, 2);
    _tile_loadd(0, high + second, bytes);
    _tile_dpbf16ps(5, 0, 2);
    _tile_loadd(0, high, bytes);
    _tile_dpbf16ps(4, 0, 2);
    _tile_loadd(2, weights + 512, 64);
    _tile_dpbf16ps(4, 0, 2);
    _tile_loadd(0, high + second, bytes);
    _tile_dpbf16ps(5, 0, 2);
  }

  // One product; one tile of weights.
  void add_bf16(const uint16_t *high, int64_t distance, const uint16_t *weights) {
    const int64_t bytes = distance * 2;
    _tile_loadd(2, weights, 64);
    _tile_loadd(0, high, bytes);
    _tile_dpbf16ps(4, 0, 2);
    _tile_loadd(0, high + distance * 16, bytes);
    _tile_dpbf16ps(5, 0, 2);
  }
};

typedef float Vector __attribute__((vector_size(64)));

// x / (1 + 2^t) with t = -x log2(e). The fraction of t goes through a polynomial of degree 5 (relative error 2e-7), its
// whole part into the exponent; the quotient is AVX-512's estimate of 14 bits and a step of Newton's method.
inline Vector silu(Vector x) {
  const __m512 v = (__m512)x;
  const __m512 t = _mm512_min_ps(_mm512_set1_ps(126.0f), _mm512_mul_ps(v, _mm512_set1_ps(-1.44269504f)));
  const __m512 f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // in [0, 1)
  __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(kPower[5]), _mm512_set1_ps(kPower[4]));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kPower[3]));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kPower[2]));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kPower[1]));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kPower[0]));
  const __m512 divisor = _mm512_add_ps(_mm512_scalef_ps(p, t), _mm512_set1_ps(1.0f));
  const __m512 estimate = _mm512_rcp14_ps(divisor);
  const __m512 quotient = _mm512_mul_ps(v, estimate);
  return (Vector)_mm512_fmadd_ps(quotient, _mm512_fnmadd_ps(divisor, estimate, _mm512_set1_ps(1.0f)), quotient);
}

inline void to_bf16(Vector a, Vector b, uint16_t *to) {
  _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
}

inline Vector from_bf16(const uint16_t *from) {
  const __m256i halves = _mm256_load_si256(reinterpret_cast<const __m256i *>(from));
  return (Vector)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline void clear_block(uint16_t *to) { _mm512_store_si512(to, _mm512_setzero_si512()); }

// Brings 32 floats nearer, to be read in some microseconds: a miss would hold up the products behind it.
inline void prefetch_input(const float *at) {
  _mm_prefetch(reinterpret_cast<const char *>(at), _MM_HINT_T1);
  _mm_prefetch(reinterpret_cast<const char *>(at + 16), _MM_HINT_T1);
}

// The same for 16 that are written.
inline void prefetch_output(const float *at) { __builtin_prefetch(at, 1, 2); }
