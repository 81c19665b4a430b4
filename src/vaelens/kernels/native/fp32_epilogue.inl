// What happens to sums: bias, residual, and the moments of rows, while they are in cache.

// Lanes of the vector at `channel` that are channels of the output.
inline int lanes_at(int64_t channel, int64_t channels) { return static_cast<int>(smaller(kLanes, channels - channel)); }

struct Output {
  float *at;              // of the first pixel and channel
  const float *residual;  // there, or NULL
  inline void put(int64_t offset, Vector value, int lanes) const {
    if (residual) value = value + load_some(residual + offset, lanes);
    store_some(at + offset, value, lanes);
  }
};

// Adds `pixels` values of up to kLanes channels, `step` floats apart, to the moments of `before` values: [lanes, 2], mean and
// sum of squared deviations. Sums are taken about the first value, so that a large mean costs no digits, and merged in
// float64 (Chan, Golub, LeVeque 1979).
__attribute__((noinline)) void add_moments(const float *values, int64_t pixels, int64_t step, int lanes, int64_t before,
                                           double *moments) {
  const Vector first = load_some(values, lanes);
  Vector sum = {}, squares = {};
  for (int64_t i = 0; i < pixels; ++i) {
    const Vector difference = load_some(values + i * step, lanes) - first;
    sum = sum + difference;
    squares = multiply_add(difference, difference, squares);
  }
  const double count = static_cast<double>(pixels), earlier = static_cast<double>(before);
  const double share = count / (count + earlier), weight = earlier * share, inverse = 1.0 / count;
  for (int i = 0; i < lanes; ++i) {
    const double about_first = sum[i];
    double *mean = moments + 2 * i, *deviations = mean + 1;
    const double block_mean = first[i] + about_first * inverse;
    double block_deviations = squares[i] - about_first * about_first * inverse;
    block_deviations = block_deviations < 0 ? 0 : block_deviations;
    if (before == 0) {
      *mean = block_mean;
      *deviations = block_deviations;
    } else {
      const double difference = block_mean - *mean;
      *mean = *mean + difference * share;
      *deviations = *deviations + block_deviations + difference * difference * weight;
    }
  }
}

// Columns of the output in blocks of equal width, at most 64 pixels (16 tiles): what is loaded and transformed at once, and
// what moments are summed over. They depend on the width alone.
struct Columns {
  int64_t units, unit;  // tiles or pixels
  Columns(int64_t width, int64_t unit_width) : units(quotient_up(width, unit_width)), unit(unit_width) {}
  int64_t count() const { return quotient_up(units * unit, 64); }
  int64_t first(int64_t block) const { return block * units / count(); }
  int64_t widest() const { return quotient_up(units, count()); }
};
