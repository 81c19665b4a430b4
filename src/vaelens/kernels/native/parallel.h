// Work shared among threads: PyTorch's own, where its OpenMP library was given, so that no second pool fights it.
#ifndef VAELENS_PARALLEL_H
#define VAELENS_PARALLEL_H

#include <stdint.h>

namespace vaelens {

// Calls task(context, item, thread) once for each item of [0, items), on up to `threads` threads numbered from 0. A
// thread takes the next item when it has finished one; what an item computes must not depend on who takes it.
// A task returns false when memory ran out: no further items are begun then, and the result is false.
using Task = bool (*)(void *context, int64_t item, int thread);
bool parallel(int threads, int64_t items, Task task, void *context);

// A block of at least `bytes` that belongs to the calling thread, 64-byte aligned, NULL where memory runs out. Its
// contents last until the thread's next call.
void *scratch(int64_t bytes);

}  // namespace vaelens

#endif
