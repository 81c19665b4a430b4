// Runs every path of the native kernels over many shapes and compares with sums in double: `make sanitize` compiles it
// together with the kernels under AddressSanitizer and UndefinedBehaviorSanitizer, or under ThreadSanitizer.
//
//   driver [CASES [SEED]]     exit status 1 where a value is wrong; a sanitizer's finding ends it with its own
//
// Every buffer is exactly as large as the interface asks. Half of them end before, or begin behind, a page that can't be
// read: tile and masked loads, which AddressSanitizer doesn't see, fault there.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "convolution.h"

#ifdef VAELENS_FAILING_ALLOCATIONS  // the linker gives these what the kernels call (--wrap)
std::atomic<int64_t> allocations_left{INT64_MAX};
extern "C" {
void *__real_aligned_alloc(size_t, size_t);
void *__real_calloc(size_t, size_t);
void *__real_malloc(size_t);
void *__wrap_aligned_alloc(size_t a, size_t n) { return allocations_left-- > 0 ? __real_aligned_alloc(a, n) : nullptr; }
void *__wrap_calloc(size_t n, size_t each) { return allocations_left-- > 0 ? __real_calloc(n, each) : nullptr; }
void *__wrap_malloc(size_t n) { return allocations_left-- > 0 ? __real_malloc(n) : nullptr; }
}
#endif

extern "C" void __sanitizer_set_death_callback(void (*)(void)) __attribute__((weak));

namespace {

uint64_t state = 1;
uint64_t random_bits() {  // xorshift64*
  state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
  return (state * 2685821657736338717ull) >> 11;
}
int64_t below(int64_t bound) { return static_cast<int64_t>(random_bits() % static_cast<uint64_t>(bound)); }
float normal() {  // of twelve uniform numbers
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += static_cast<double>(random_bits()) * 0x1p-53;
  return static_cast<float>(sum);
}

// Memory of exactly so many bytes: from the heap, or against a forbidden page behind or before it.
template <typename T>
class Block {
 public:
  explicit Block(int64_t count, size_t alignment = alignof(T)) : count_(count), bytes_(static_cast<size_t>(count) * sizeof(T)) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), place = random_bits() % 4;
    if (place < 2) {
      if (posix_memalign(&whole_, alignment < sizeof(void *) ? sizeof(void *) : alignment, bytes_ ? bytes_ : 1)) abort();
      data_ = static_cast<T *>(whole_);
      return;
    }
    const size_t inside = (bytes_ + page - 1) / page * page;
    mapped_ = inside + 2 * page;
    whole_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (whole_ == MAP_FAILED) abort();
    char *begin = static_cast<char *>(whole_) + page;
    if (inside && mprotect(begin, inside, PROT_READ | PROT_WRITE)) abort();
    data_ = reinterpret_cast<T *>(place == 2 ? begin : begin + (inside - bytes_) / alignment * alignment);
  }
  ~Block() {
    if (mapped_)
      munmap(whole_, mapped_);
    else
      free(whole_);
  }
  Block(const Block &) = delete;
  Block &operator=(const Block &) = delete;
  T *data() { return data_; }
  T &operator[](int64_t i) { return data_[i]; }
  int64_t count() const { return count_; }
  size_t bytes() const { return bytes_; }

 private:
  int64_t count_;
  size_t bytes_, mapped_ = 0;
  void *whole_ = nullptr;
  T *data_ = nullptr;
};
using Floats = Block<float>;

struct PathName {
  const char *name;
  int arithmetic, instructions;
  double tolerance;  // of the largest sum of magnitudes
};
const PathName kPaths[] = {
    {"portable", VAELENS_FP32, VAELENS_PORTABLE, 2e-6},   {"avx2", VAELENS_FP32, VAELENS_AVX2, 2e-6},
    {"avx512", VAELENS_FP32, VAELENS_AVX512, 2e-6},       {"tiles", VAELENS_SPLIT_BF16, VAELENS_PORTABLE, 2e-5},
    {"tiles-bf16", VAELENS_BF16, VAELENS_PORTABLE, 8e-3}, {"amx", VAELENS_SPLIT_BF16, VAELENS_AMX, 2e-5},
    {"amx-bf16", VAELENS_BF16, VAELENS_AMX, 8e-3},
};

constexpr double kMomentsTolerance = 5e-6;

// Whether this processor executes a path: instruction sets of one arithmetic include those numbered below.
bool executable(const PathName &path) {
  return path.instructions == VAELENS_PORTABLE || path.instructions <= vaelens_instructions(path.arithmetic);
}

struct Shape {
  int height, width, stride, upsample, pad_top, pad_left;
  bool required;  // of every path: what an autoencoder is made of
};
const Shape kShapes[] = {
    {3, 3, 1, 1, 1, 1, true},  {3, 3, 1, 2, 1, 1, true},  {3, 3, 2, 1, 0, 0, true},  {1, 1, 1, 1, 0, 0, true},
    {3, 3, 2, 1, 1, 1, false}, {1, 1, 2, 1, 0, 0, false}, {5, 5, 1, 1, 2, 2, false}, {1, 7, 1, 1, 0, 3, false},
    {7, 1, 1, 1, 3, 0, false}, {1, 1, 1, 1, 1, 1, false}, {4, 4, 2, 1, 1, 1, false}, {4, 4, 1, 1, 1, 1, false}, {3, 3, 1, 1, 0, 0, false},
};
const int kChannels[][2] = {{1, 1},   {3, 24},  {24, 3},  {4, 32},  {16, 16}, {17, 31}, {33, 65}, {64, 48},
                            {96, 96}, {128, 8}, {8, 128}, {512, 4}, {4, 512}, {192, 40}, {31, 2}, {65, 129}};
const int64_t kSizes[][2] = {{1, 1},  {1, 9},  {9, 1},   {2, 3},   {5, 7},  {13, 17}, {8, 64},
                             {6, 70}, {19, 33}, {3, 131}, {40, 12}, {4, 63}, {12, 65}};

// A whole map: inputs, and what is expected of them.
struct Map {
  vaelens_kernel kernel;
  int64_t in_height, in_width, out_height, out_width;
  int activation;
  bool normalised, moments;
  int residual;  // 0 none, 1 apart from the output, 2 the output itself
  std::vector<float> input, mean, scale, shift, weights, bias, added;
  std::vector<double> expected;
  double magnitude = 0;
};

double activated(const Map &map, double x, int64_t channel) {
  if (map.normalised) x = (x - map.mean[channel]) * map.scale[channel] + map.shift[channel];
  if (map.activation == VAELENS_RELU) return x > 0 ? x : 0;
  return map.activation == VAELENS_SILU ? x / (1 + std::exp(-x)) : x;
}

void compute_expected(Map &map) {
  const vaelens_kernel &k = map.kernel;
  const int64_t ci = k.in_channels, co = k.out_channels, taps = k.height * k.width;
  std::vector<double> loaded(map.input.size()), sum(co), size(co);
  for (size_t i = 0; i < loaded.size(); ++i) loaded[i] = activated(map, map.input[i], static_cast<int64_t>(i) % ci);
  std::vector<double> by_tap(static_cast<size_t>(taps * ci * co));
  for (int64_t o = 0; o < co; ++o)
    for (int64_t i = 0; i < ci; ++i)
      for (int64_t t = 0; t < taps; ++t) by_tap[(t * ci + i) * co + o] = map.weights[(o * ci + i) * taps + t];
  map.expected.clear();
  for (int64_t y = 0; y < map.out_height; ++y)
    for (int64_t x = 0; x < map.out_width; ++x) {
      for (int64_t o = 0; o < co; ++o) {
        const double residual = map.residual ? map.added[(y * map.out_width + x) * co + o] : 0;
        sum[o] = residual + (map.bias.empty() ? 0 : map.bias[o]);
        size[o] = std::fabs(residual) + (map.bias.empty() ? 0 : std::fabs(map.bias[o]));
      }
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t v = y * k.stride + t / k.width - k.pad_top, u = x * k.stride + t % k.width - k.pad_left;
        if (v < 0 || u < 0 || v >= map.in_height * k.upsample || u >= map.in_width * k.upsample) continue;
        const double *from = &loaded[(v / k.upsample * map.in_width + u / k.upsample) * ci], *by = &by_tap[t * ci * co];
        for (int64_t i = 0; i < ci; ++i)
          for (int64_t o = 0; o < co; ++o) {
            sum[o] += from[i] * by[i * co + o];
            size[o] += std::fabs(from[i] * by[i * co + o]);
          }
      }
      for (int64_t o = 0; o < co; ++o) {
        map.expected.push_back(sum[o]);
        if (size[o] > map.magnitude) map.magnitude = size[o];
      }
    }
}

std::vector<float> random_floats(int64_t count, float scale, float offset) {
  std::vector<float> made(static_cast<size_t>(count));
  for (float &value : made) value = normal() * scale + offset;
  return made;
}

// False where the map would be empty or take too long.
bool make_map(Map &map, const Shape &shape, const int *channels, const int64_t *size) {
  const int64_t ci = channels[0], co = channels[1];
  map.kernel = {0, 0, static_cast<int32_t>(ci), static_cast<int32_t>(co), shape.height, shape.width,
                shape.stride, shape.upsample, shape.pad_top, shape.pad_left};
  map.in_height = size[0], map.in_width = size[1];
  // Padded below and on the right by as much as above and on the left, and by one more where that is none.
  const auto length = [&](int64_t in, int kernel, int pad) {
    const int64_t whole = in * shape.upsample + 2 * pad + (pad == 0 && kernel > 1 ? 1 : 0);
    return whole < kernel ? 0 : (whole - kernel) / shape.stride + 1;
  };
  map.out_height = length(map.in_height, shape.height, shape.pad_top);
  map.out_width = length(map.in_width, shape.width, shape.pad_left);
  const int64_t products = map.out_height * map.out_width * ci * co * shape.height * shape.width;
  if (products <= 0 || products > 12000000) return false;
  const float offset = below(3) == 0 ? 1000 : 0;  // mean 1000, deviation 1: rounding must not eat the deviation
  map.activation = static_cast<int>(below(3));
  map.normalised = offset != 0 || below(2), map.moments = below(2);
  map.residual = static_cast<int>(below(3));
  map.input = random_floats(map.in_height * map.in_width * ci, 1, offset);
  map.mean = random_floats(ci, 0.5f, offset), map.scale = random_floats(ci, 0.3f, 1), map.shift = random_floats(ci, 0.5f, 0);
  map.weights = random_floats(co * ci * shape.height * shape.width, 1, 0);
  if (below(4)) map.bias = random_floats(co, 1, below(4) == 0 ? 1000.0f : 0.0f);
  if (map.residual) map.added = random_floats(map.out_height * map.out_width * co, 1, 0);
  compute_expected(map);
  return true;
}

void other_openmp(void (*function)(void *), void *data, unsigned threads, unsigned) {
  std::vector<std::thread> team;
  for (unsigned i = 1; i < threads; ++i) team.emplace_back(function, data);
  function(data);
  for (std::thread &member : team) member.join();
}

int failures = 0;
void fail(const PathName &path, const Map &map, const char *what) {
  const vaelens_kernel &k = map.kernel;
  printf("%s: %dx%d stride %d upsample %d pad %d,%d, %d to %d channels, %lldx%lld, activation %d%s%s%s, residual %d: %s\n",
         path.name, k.height, k.width, k.stride, k.upsample, k.pad_top, k.pad_left, k.in_channels, k.out_channels,
         static_cast<long long>(map.in_height), static_cast<long long>(map.in_width), map.activation,
         map.normalised ? ", normalised" : "", map.bias.empty() ? "" : ", bias", map.moments ? ", moments" : "",
         map.residual, what);
  fflush(stdout);
  ++failures;
}

// What is being computed, for a sanitizer that ends the process.
const PathName *current_path = nullptr;
const Map *current_map = nullptr;
int64_t current_first = 0, current_rows = 0;
void die() {
  if (!current_path) return;
  char what[100];
  snprintf(what, sizeof what, "a sanitizer's finding in rows %lld to %lld", static_cast<long long>(current_first),
           static_cast<long long>(current_first + current_rows));
  fail(*current_path, *current_map, what);
}

struct Result {
  int status = VAELENS_OK;
  std::vector<float> output;
  std::vector<double> moments;
};

// The map in strips of about `rows` rows.
Result compute(const Map &map, const vaelens_kernel &kernel, int64_t rows, int threads) {
  const int64_t ci = kernel.in_channels, co = kernel.out_channels, alignment = vaelens_row_alignment(&kernel);
  Result result;
  Block<char> packed(vaelens_packed_bytes(&kernel), 64);
  Floats weights(static_cast<int64_t>(map.weights.size()));
  memcpy(weights.data(), map.weights.data(), weights.bytes());
  if ((result.status = vaelens_pack(&kernel, weights.data(), threads, packed.data()))) return result;
  const auto copied = [](const std::vector<float> &from, int64_t begin, int64_t count) {
    auto made = std::make_unique<Floats>(count);
    if (count) memcpy(made->data(), from.data() + begin, made->bytes());
    return made;
  };
  const auto mean = copied(map.mean, 0, ci), scale = copied(map.scale, 0, ci), shift = copied(map.shift, 0, ci);
  const auto bias = copied(map.bias, 0, static_cast<int64_t>(map.bias.size()));
  const int64_t height = (rows + alignment - 1) / alignment * alignment, row = map.out_width * co;
  for (int64_t first = 0; first < map.out_height; first += height) {
    const int64_t count = first + height < map.out_height ? height : map.out_height - first;
    // The rows of the input that these rows read, and no others.
    int64_t begin = first * kernel.stride - kernel.pad_top, end = (first + count - 1) * kernel.stride - kernel.pad_top + kernel.height;
    begin = begin < 0 ? 0 : begin / kernel.upsample, end = (end + kernel.upsample - 1) / kernel.upsample;
    if (end > map.in_height) end = map.in_height;
    if (begin > end) begin = end;
    const int64_t pixels = (end - begin) * map.in_width, stride = ci + (below(3) ? 0 : below(40));
    Floats input(pixels ? (pixels - 1) * stride + ci : 0);
    for (int64_t i = 0; i < input.count(); ++i) input[i] = NAN;  // between the pixels
    for (int64_t i = 0; i < pixels; ++i)
      memcpy(&input[i * stride], &map.input[(begin * map.in_width + i) * ci], static_cast<size_t>(ci) * sizeof(float));
    const auto added = copied(map.added, map.residual ? first * row : 0, map.residual ? count * row : 0);
    Floats apart(map.residual == 2 ? 0 : count * row);
    Floats &output = map.residual == 2 ? *added : apart;
    Block<double> moments(map.moments ? count * co * 2 : 0);
    const vaelens_strip strip = {input.data(), begin, end - begin, map.in_height, map.in_width, stride,
                                 map.normalised ? mean->data() : nullptr, map.normalised ? scale->data() : nullptr,
                                 map.normalised ? shift->data() : nullptr, map.activation, threads, packed.data(),
                                 map.bias.empty() ? nullptr : bias->data(), map.residual ? added->data() : nullptr,
                                 output.data(), first, count, map.out_width, map.moments ? moments.data() : nullptr};
    current_first = first, current_rows = count;
    if ((result.status = vaelens_convolve(&kernel, &strip))) return result;
    result.output.insert(result.output.end(), output.data(), output.data() + count * row);
    result.moments.insert(result.moments.end(), moments.data(), moments.data() + moments.count());
  }
  return result;
}

// The largest error of the values, in units of the largest sum of magnitudes.
double value_error(const Map &map, const Result &result) {
  double worst = 0;
  for (size_t i = 0; i < map.expected.size(); ++i) {
    const double error = std::fabs(result.output[i] - map.expected[i]) / map.magnitude;
    if (!(error <= worst)) worst = error;  // NaN too
  }
  return worst;
}

// Of the moments against those of the values that were written: means in units of the largest value, squared deviations
// in units of their own and of the values' rounding.
double moments_error(const Map &map, const Result &result) {
  const int64_t co = map.kernel.out_channels, n = map.out_width;
  double worst = 0;
  for (int64_t y = 0; y < map.out_height; ++y)
    for (int64_t o = 0; o < co; ++o) {
      double mean = 0, squares = 0, largest = 1e-30;
      for (int64_t x = 0; x < n; ++x) mean += result.output[(y * n + x) * co + o] / static_cast<double>(n);
      for (int64_t x = 0; x < n; ++x) {
        const double value = result.output[(y * n + x) * co + o];
        squares += (value - mean) * (value - mean);
        largest = std::fmax(largest, std::fabs(value));
      }
      const double *found = &result.moments[(y * co + o) * 2], rounding = largest * 0x1p-22;
      worst = std::fmax(worst, std::fabs(found[0] - mean) / largest);
      const double deviation = std::sqrt(squares * static_cast<double>(n)) * rounding;
      worst = std::fmax(worst, kMomentsTolerance * std::fabs(found[1] - squares) /
                                   (1e-5 * squares + deviation + static_cast<double>(n) * rounding * rounding));
      if (std::isnan(found[0]) || std::isnan(found[1])) return NAN;
    }
  return worst;
}

// NaN and infinity must reach every value that reads them: what a broken latent gives is reported, not hidden.
void check_not_finite(const PathName &path, Map map) {
  const vaelens_kernel &k = map.kernel;
  const int64_t row = below(map.in_height), column = below(map.in_width), channel = below(k.in_channels);
  map.input[(row * map.in_width + column) * k.in_channels + channel] = below(2) ? NAN : INFINITY;
  map.scale.assign(map.scale.size(), 1);
  const Result result = compute(map, k, map.out_height, 1);
  for (int64_t y = 0; y < map.out_height; ++y)
    for (int64_t x = 0; x < map.out_width; ++x) {
      bool reads = false;
      for (int64_t t = 0; t < k.height * k.width; ++t) {
        const int64_t v = y * k.stride + t / k.width - k.pad_top, u = x * k.stride + t % k.width - k.pad_left;
        reads = reads || (v >= 0 && u >= 0 && v / k.upsample == row && u / k.upsample == column);
      }
      for (int64_t o = 0; reads && o < k.out_channels; ++o)
        if (std::isfinite(result.output[(y * map.out_width + x) * k.out_channels + o]))
          return fail(path, map, "a value that reads NaN or infinity is finite");
    }
}

struct Tally {
  int ran = 0, unsupported = 0, without_memory = 0;
  double worst = 0, worst_moments = 0;
};

void check(const PathName &path, Map &map, bool required, Tally &tally) {
  map.kernel.arithmetic = path.arithmetic, map.kernel.instructions = path.instructions;
  if (vaelens_packed_bytes(&map.kernel) < 0) {
    ++tally.unsupported;
    if (required) fail(path, map, "not supported");
    if (vaelens_pack(&map.kernel, map.weights.data(), 1, nullptr) != VAELENS_UNSUPPORTED) fail(path, map, "packed all the same");
    return;
  }
  ++tally.ran;
  current_path = &path, current_map = &map;
  vaelens_use_openmp(nullptr);
  const Result whole = compute(map, map.kernel, map.out_height, 1);
  if (whole.status) return fail(path, map, "no memory, or not supported after all");
  const double error = value_error(map, whole);
  if (!(error <= tally.worst)) tally.worst = error;
  if (!(error <= path.tolerance)) fail(path, map, ("error " + std::to_string(error / path.tolerance) + " of the tolerance").c_str());
  if (map.moments) {
    const double of_moments = moments_error(map, whole);
    if (!(of_moments <= tally.worst_moments)) tally.worst_moments = of_moments;
    if (!(of_moments <= kMomentsTolerance))
      fail(path, map, ("moments wrong by " + std::to_string(of_moments / kMomentsTolerance) + " of the tolerance").c_str());
  }
  if (below(2)) vaelens_use_openmp(reinterpret_cast<void *>(other_openmp));
  for (int threads = 2; threads <= 3; ++threads) {
    const Result strips = compute(map, map.kernel, 1 + below(map.out_height), threads);
    if (strips.output.size() != whole.output.size() ||
        memcmp(strips.output.data(), whole.output.data(), whole.output.size() * sizeof(float)))
      fail(path, map, "strips and threads change the values");
    if (strips.moments.size() != whole.moments.size() ||
        (map.moments && memcmp(strips.moments.data(), whole.moments.data(), whole.moments.size() * sizeof(double))))
      fail(path, map, "strips and threads change the moments");
  }
  if (below(4) == 0) check_not_finite(path, map);
#ifdef VAELENS_FAILING_ALLOCATIONS
  vaelens_use_openmp(nullptr);  // threads of their own, which begin without scratch memory
  allocations_left = below(4);
  const Result without = compute(map, map.kernel, map.out_height, 3);
  allocations_left = INT64_MAX;
  if (without.status == VAELENS_NO_MEMORY)
    ++tally.without_memory;
  else if (without.output != whole.output)
    fail(path, map, "a failed allocation is hidden, and the values are wrong");
#endif
}

}  // namespace

int main(int count, char **words) {
  const long cases = count > 1 ? atol(words[1]) : 200;
  state = count > 2 ? static_cast<uint64_t>(atoll(words[2])) * 2 + 1 : 1;
  const size_t paths = sizeof kPaths / sizeof *kPaths, shapes = sizeof kShapes / sizeof *kShapes;
  std::vector<Tally> tallies(paths);
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(die);
  for (long done = 0; done < cases;) {
    Map map;
    const Shape &shape = kShapes[below(3) ? below(4) : below(static_cast<int64_t>(shapes))];
    if (!make_map(map, shape, kChannels[below(sizeof kChannels / sizeof *kChannels)], kSizes[below(sizeof kSizes / sizeof *kSizes)]))
      continue;
    ++done;
    for (size_t i = 0; i < paths; ++i)
      if (executable(kPaths[i])) check(kPaths[i], map, shape.required, tallies[i]);
  }
  current_path = nullptr;
  for (size_t i = 0; i < paths; ++i) {
    const Tally &tally = tallies[i];
    if (executable(kPaths[i]))
      printf("%-10s %4d maps, %3d unsupported, %3d stopped by a failed allocation; largest error %.1e (tolerance %.0e), of moments %.1e\n", kPaths[i].name,
             tally.ran, tally.unsupported, tally.without_memory, tally.worst, kPaths[i].tolerance, tally.worst_moments);
    else
      printf("%-10s not on this processor, or not built\n", kPaths[i].name);
  }
  printf(failures ? "%d failures\n" : "no failure\n", failures);
  return failures ? 1 : 0;
}
