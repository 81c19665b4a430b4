// What happens to sums: bias, residual, and the moments of rows, while they are in cache.

// Lanes of the vector at `channel` that are channels of the output.
inline int lanes_at(int64_t channel, int64_t channels) { return static_cast<int>(smaller(kLanes, channels - channel)); }

// Adds the residual (or NULL) to a value, writes it, and gives it back.
inline Vector put(float *to, const float *residual, Vector value, int lanes) {
  if (residual) value = value + load_some(residual, lanes);
  store_some(to, value, lanes);
  return value;
}

// Sums over a row of the output while it is written, for as many channels as are written together: of the differences
// from the row's first value, so that a large mean costs no digits, and of their squares.
struct RowSums {
  float *first, *sum, *squares;

  static int64_t floats(int64_t channels) { return 3 * channels; }
  RowSums(float *memory, int64_t channels) : first(memory), sum(memory + channels), squares(memory + 2 * channels) {}

  // Adds `count` values of the channels from `channel` on; `begins`: they are the row's first.
  template <int count>
  inline void add(int64_t channel, const Vector *values, int actual, bool begins) const {
    const Vector about = begins ? values[0] : load(first + channel);
    Vector total = begins ? Vector{} : load(sum + channel);
    Vector total_squares = begins ? Vector{} : load(squares + channel);
    if (begins) store(first + channel, about);
#pragma GCC unroll 4
    for (int i = 0; i < count; ++i)
      if (i < actual) {
        const Vector difference = values[i] - about;
        total = total + difference;
        total_squares = multiply_add(difference, difference, total_squares);
      }
    store(sum + channel, total);
    store(squares + channel, total_squares);
  }
};

// Merges the sums over `pixels` values with the moments of the `before` values to their left: [channels, 2], mean and
// sum of squared deviations, in float64 (Chan, Golub and LeVeque 1979).
__attribute__((noinline)) void merge_moments(const RowSums &sums, int64_t channels, int64_t pixels, int64_t before,
                                             double *moments) {
  const double count = static_cast<double>(pixels), earlier = static_cast<double>(before);
  const double share = count / (count + earlier), weight = earlier * share, inverse = 1.0 / count;
  for (int64_t i = 0; i < channels; ++i) {
    const double about_first = sums.sum[i];
    const double block_mean = sums.first[i] + about_first * inverse;
    double block_deviations = sums.squares[i] - about_first * about_first * inverse;
    block_deviations = block_deviations < 0 ? 0 : block_deviations;
    if (before == 0) {
      moments[2 * i] = block_mean;
      moments[2 * i + 1] = block_deviations;
    } else {
      const double difference = block_mean - moments[2 * i];
      moments[2 * i] = moments[2 * i] + difference * share;
      moments[2 * i + 1] = moments[2 * i + 1] + block_deviations + difference * difference * weight;
    }
  }
}

constexpr int64_t kMostColumns = 64;  // 16 tiles

// Columns of the output in blocks of equal width, at most kMostColumns: what is loaded and transformed at once, and
// what moments are summed over. They depend on the width alone.
struct Columns {
  int64_t units, unit;  // tiles or pixels
  Columns(int64_t width, int64_t unit_width) : units(quotient_up(width, unit_width)), unit(unit_width) {}
  int64_t count() const { return quotient_up(units * unit, kMostColumns); }
  int64_t first(int64_t block) const { return block * units / count(); }
  int64_t widest() const { return quotient_up(units, count()); }
};
