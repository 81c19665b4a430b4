#include "parallel.h"

#include <stdlib.h>

#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "convolution.h"

namespace vaelens {
namespace {

using GompParallel = void (*)(void (*)(void *), void *, unsigned, unsigned);
std::atomic<GompParallel> gomp_parallel{nullptr};

struct Work {
  Task task;
  void *context;
  int64_t items;
  std::atomic<int64_t> next{0};
  std::atomic<int> threads{0};
  std::atomic<bool> failed{false};
};

void run(void *argument) {
  Work &work = *static_cast<Work *>(argument);
  const int thread = work.threads.fetch_add(1);
  while (!work.failed.load(std::memory_order_relaxed)) {
    const int64_t item = work.next.fetch_add(1);
    if (item >= work.items) return;
    if (!work.task(work.context, item, thread)) work.failed = true;
  }
}

// Freed with its thread; OpenMP's threads live as long as the process.
struct Scratch {
  void *block = nullptr;
  int64_t bytes = 0;
  ~Scratch() { free(block); }
};
thread_local Scratch own;

}  // namespace

bool parallel(int threads, int64_t items, Task task, void *context) {
  Work work;
  work.task = task;
  work.context = context;
  work.items = items;
  const int count = static_cast<int>(items < threads ? items : threads);
  const GompParallel openmp = gomp_parallel.load();
  if (count <= 1) {
    run(&work);
  } else if (openmp) {
    // As many as PyTorch asks for, also where some find nothing to do: for another number OpenMP ends and starts
    // threads.
    openmp(run, &work, static_cast<unsigned>(threads), 0);
  } else {
    std::vector<std::thread> others;
    try {
      others.reserve(static_cast<size_t>(count - 1));
      for (int i = 1; i < count; ++i) others.emplace_back(run, &work);
    } catch (const std::exception &) {
      // The system starts no more threads: those that run, and this one, take all items.
    }
    run(&work);
    for (std::thread &other : others) other.join();
  }
  return !work.failed;
}

void *scratch(int64_t bytes) {
  if (own.bytes < bytes) {
    free(own.block);
    own.bytes = 0;
    const size_t rounded = (static_cast<size_t>(bytes) + 63) / 64 * 64;
    own.block = aligned_alloc(64, rounded);
    if (!own.block) return nullptr;
    own.bytes = bytes;
  }
  return own.block;
}

}  // namespace vaelens

extern "C" void vaelens_use_openmp(void *address) {
  vaelens::gomp_parallel = reinterpret_cast<vaelens::GompParallel>(address);
}
