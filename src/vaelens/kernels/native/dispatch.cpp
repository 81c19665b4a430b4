// The C interface: which implementation a kernel runs on, and what this processor can execute.
#include "convolution.h"

#include "paths.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

// setup.py leaves that path out where the compiler doesn't know its instructions.
#if defined(__x86_64__) && !defined(VAELENS_WITHOUT_AMX)
#define VAELENS_AMX_BUILT
#endif

namespace {

using vaelens::Path;

const Path *path_of(const vaelens_kernel &kernel) {
  const bool fp32 = kernel.arithmetic == VAELENS_FP32;
  if (!fp32 && kernel.arithmetic != VAELENS_SPLIT_BF16 && kernel.arithmetic != VAELENS_BF16) return nullptr;
  switch (kernel.instructions) {
    case VAELENS_PORTABLE:
      return fp32 ? &vaelens::fp32_portable : &vaelens::split_portable;
#if defined(__x86_64__)
    case VAELENS_AVX2:
      return fp32 ? &vaelens::fp32_avx2 : nullptr;
    case VAELENS_AVX512:
      return fp32 ? &vaelens::fp32_avx512 : nullptr;
#endif
#if defined(VAELENS_AMX_BUILT)
    case VAELENS_AMX:
      return fp32 ? nullptr : &vaelens::split_amx;
#endif
    default:
      return nullptr;
  }
}

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_amx() {
#if defined(VAELENS_AMX_BUILT) && defined(__linux__)
  unsigned a, b, c, d;
  if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tiles = d >> 24 & 1, tile_bf16 = d >> 22 & 1;
  if (!tiles || !tile_bf16 || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
  const bool avx512_bf16 = a >> 5 & 1;
  // Linux gives a process the tile registers when it asks (arch_prctl ARCH_REQ_XCOMP_PERM for XTILEDATA).
  return avx512_bf16 && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}
#endif

}  // namespace

extern "C" {

int32_t vaelens_interface_version(void) { return VAELENS_INTERFACE_VERSION; }

int64_t vaelens_packed_bytes(const vaelens_kernel *kernel) {
  const Path *path = path_of(*kernel);
  return path ? path->packed_bytes(*kernel) : -1;
}

int vaelens_pack(const vaelens_kernel *kernel, const float *weights, int32_t threads, void *packed) {
  if (vaelens_packed_bytes(kernel) < 0) return VAELENS_UNSUPPORTED;
  return path_of(*kernel)->pack(*kernel, weights, threads < 1 ? 1 : threads, packed);
}

int64_t vaelens_scratch_bytes(const vaelens_kernel *kernel, int64_t in_width, int64_t out_width) {
  if (vaelens_packed_bytes(kernel) < 0) return -1;
  return path_of(*kernel)->scratch_bytes(*kernel, in_width, out_width);
}

int32_t vaelens_row_alignment(const vaelens_kernel *kernel) {
  if (vaelens_packed_bytes(kernel) < 0) return -1;
  return path_of(*kernel)->row_alignment(*kernel);
}

int vaelens_convolve(const vaelens_kernel *kernel, const vaelens_strip *strip) {
  if (vaelens_packed_bytes(kernel) < 0) return VAELENS_UNSUPPORTED;
  return path_of(*kernel)->convolve(*kernel, *strip);
}

int32_t vaelens_instructions(int32_t arithmetic) {
#if defined(__x86_64__)
  if (arithmetic != VAELENS_FP32) return has_amx() ? VAELENS_AMX : VAELENS_PORTABLE;
  if (has_avx512()) return VAELENS_AVX512;
  return has_avx2() ? VAELENS_AVX2 : VAELENS_PORTABLE;
#else
  (void)arithmetic;
  return VAELENS_PORTABLE;
#endif
}
}
