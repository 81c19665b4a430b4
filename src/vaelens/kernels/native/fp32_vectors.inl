// Vectors of the path's width, and the activations on them.
typedef float Vector __attribute__((vector_size(4 * VAELENS_LANES)));
typedef int32_t IntVector __attribute__((vector_size(4 * VAELENS_LANES)));
typedef float UnalignedVector __attribute__((vector_size(4 * VAELENS_LANES), aligned(4), may_alias));

constexpr int kLanes = VAELENS_LANES;
// Channels lie in blocks of 16 on every path, so that the distance between neighbouring pixels is a constant in the
// multiplication, and a block is one line of the cache.
constexpr int kBlock = 16;
constexpr int kParts = kBlock / kLanes;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return quotient_up(a, b) * b; }

inline Vector load(const float *from) { return *reinterpret_cast<const UnalignedVector *>(from); }
inline void store(float *to, Vector value) { *reinterpret_cast<UnalignedVector *>(to) = value; }
inline Vector splat(float value) { return value - Vector{}; }

// a * b + c, rounded once where the processor can: written out, so that no compiler rounds one copy of a loop
// differently from another.
inline Vector multiply_add(Vector a, Vector b, Vector c) {
#if VAELENS_LANES == 16
  return _mm512_fmadd_ps(a, b, c);
#elif VAELENS_LANES == 8
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

// The first `lanes` floats, zeros behind them.
inline Vector load_some(const float *from, int lanes) {
  if (lanes >= kLanes) return load(from);
  Vector value = {};
  for (int i = 0; i < lanes; ++i) value[i] = from[i];
  return value;
}

inline void store_some(float *to, Vector value, int lanes) {
  if (lanes >= kLanes) return store(to, value);
  for (int i = 0; i < lanes; ++i) to[i] = value[i];
}

// x / (1 + exp(-x)). exp is 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] that errs by 8e-8 at most, relatively (a
// least-maximum fit). The bounds keep 2^n a normal number: above 87 the result is x, below -88 it is 0 within 1e-36.
inline Vector silu(Vector x) {
  const Vector lowest = splat(-88.0f), highest = splat(87.0f);
  x = x < lowest ? lowest : x;  // NaN stays NaN
  const Vector y = -(x > highest ? highest : x);
  // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits.
  const Vector magic = splat(12582912.0f);
  const Vector shifted = multiply_add(y, splat(1.44269504f), magic);
  const Vector n = shifted - magic;
  // ln 2 in two parts: n times the first is exact.
  const Vector f = multiply_add(n, splat(2.12194440e-4f), multiply_add(n, splat(-0.693359375f), y));
  Vector e = splat(0.00829764783f);
  e = multiply_add(e, f, splat(0.0419154314f));
  e = multiply_add(e, f, splat(0.166675751f));
  e = multiply_add(e, f, splat(0.499988944f));
  e = multiply_add(e, f, splat(0.999999692f));
  e = multiply_add(e, f, splat(1.00000007f));
  e = (Vector)((IntVector)e + ((IntVector)shifted << 23));
#if VAELENS_LANES == 16
  // Division takes sixteen cycles here; an estimate of 14 bits and one step of Newton's take four.
  const Vector divisor = 1.0f + e, estimate = _mm512_maskz_rcp14_ps(0xffff, divisor);
  return x * multiply_add(estimate, multiply_add(-divisor, estimate, splat(1.0f)), estimate);
#else
  return x / (1.0f + e);
#endif
}

inline Vector relu(Vector x) {
  const Vector zero = {};
  return x < zero ? zero : x;  // NaN stays NaN
}
