// The tile operations on AMX, and the few vector operations that need AVX-512's own instructions.
//
// Eight tiles of 16 rows of 64 bytes. 4 to 7 accumulate 32 pixels x 32 output channels in fp32, as four quarters; 0 and
// 1 hold 16 pixels each of 32 input channels, 2 and 3 hold 32 input channels of 16 output channels each.

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
    _tile_zero(6);
    _tile_zero(7);
  }

  // [quarter][16][16]: the quarters are (first pixels, first channels), (first, second), (second, first), (second, second).
  void write(float *to) const {
    _tile_stored(4, to, 64);
    _tile_stored(5, to + 256, 64);
    _tile_stored(6, to + 512, 64);
    _tile_stored(7, to + 768, 64);
  }

  // Three products of 32 input channels: low * high + high * high + high * low. `pixels` is the distance of two pixels
  // in values, `weights` four tiles: high of the first and second 16 output channels, then low. A tile is loaded
  // where the products before it no longer read it, with others between: so loading overlaps multiplying also where
  // the processor doesn't rename tiles.
  void add_split(const uint16_t *high, const uint16_t *low, int64_t pixels, const uint16_t *weights) {
    const int64_t bytes = pixels * 2, second = pixels * 16;
    _tile_loadd(2, weights, 64);
    _tile_loadd(0, low, bytes);
    _tile_dpbf16ps(4, 0, 2);
    _tile_loadd(3, weights + 512, 64);
    _tile_dpbf16ps(5, 0, 3);
    _tile_loadd(1, low + second, bytes);
    _tile_dpbf16ps(6, 1, 2);
    _tile_dpbf16ps(7, 1, 3);
    _tile_loadd(0, high, bytes);
    _tile_dpbf16ps(4, 0, 2);
    _tile_dpbf16ps(5, 0, 3);
    _tile_loadd(1, high + second, bytes);
    _tile_dpbf16ps(6, 1, 2);
    _tile_dpbf16ps(7, 1, 3);
    _tile_loadd(2, weights + 1024, 64);
    _tile_dpbf16ps(4, 0, 2);
    _tile_dpbf16ps(6, 1, 2);
    _tile_loadd(3, weights + 1536, 64);
    _tile_dpbf16ps(5, 0, 3);
    _tile_dpbf16ps(7, 1, 3);
  }

  // One product; two tiles of weights.
  void add_bf16(const uint16_t *high, int64_t pixels, const uint16_t *weights) {
    const int64_t bytes = pixels * 2;
    _tile_loadd(2, weights, 64);
    _tile_loadd(0, high, bytes);
    _tile_dpbf16ps(4, 0, 2);
    _tile_loadd(3, weights + 512, 64);
    _tile_dpbf16ps(5, 0, 3);
    _tile_loadd(1, high + pixels * 16, bytes);
    _tile_dpbf16ps(6, 1, 2);
    _tile_dpbf16ps(7, 1, 3);
  }
};

typedef float NativeVector __attribute__((vector_size(64)));

// 1/x by AVX-512's estimate of 14 bits and one step of Newton's method.
inline NativeVector reciprocal(NativeVector x) {
  const __m512 estimate = _mm512_rcp14_ps((__m512)x);
  return (NativeVector)(_mm512_mul_ps(estimate, _mm512_fnmadd_ps((__m512)x, estimate, _mm512_set1_ps(2.0f))));
}

inline void to_bf16(NativeVector a, NativeVector b, uint16_t *to) {
  _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
}

inline NativeVector from_bf16(const uint16_t *from) {
  const __m256i halves = _mm256_load_si256(reinterpret_cast<const __m256i *>(from));
  return (NativeVector)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline void clear_block(uint16_t *to) { _mm512_store_si512(to, _mm512_setzero_si512()); }

// Brings 32 floats nearer, to be read or written in some microseconds: a miss would hold up the products behind it.
inline void prefetch_input(const float *at) {
  _mm_prefetch(reinterpret_cast<const char *>(at), _MM_HINT_T1);
  _mm_prefetch(reinterpret_cast<const char *>(at + 16), _MM_HINT_T1);
}

inline void prefetch_output(const float *at) {
  __builtin_prefetch(at, 1, 2);
  __builtin_prefetch(at + 16, 1, 2);
}
