#include "transpose.h"

#include <algorithm>
#include <cstring>

namespace atrous {
namespace {

// Elements on a side of a square whose lines, read and written, stay in the first cache.
constexpr int64_t kSide = 16;
// Elements that are worth a thread.
constexpr int64_t kGrain = 1 << 15;

template <class T>
void by_element(int64_t rows, int64_t columns, int64_t height, int64_t width, const T* from, T* to) {
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t r = 0; r < height; ++r) to[c * rows + r] = from[r * columns + c];
  }
}

// A whole square, 4 x 4 elements at a time in registers.
template <class T>
void square(int64_t rows, int64_t columns, const T* from, T* to) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  for (int64_t c = 0; c < kSide; c += 4) {
    for (int64_t r = 0; r < kSide; r += 4) {
      Four line[4];
      for (int k = 0; k < 4; ++k) std::memcpy(&line[k], from + (r + k) * columns + c, sizeof(Four));
      const Four a = __builtin_shufflevector(line[0], line[1], 0, 4, 1, 5);
      const Four b = __builtin_shufflevector(line[0], line[1], 2, 6, 3, 7);
      const Four d = __builtin_shufflevector(line[2], line[3], 0, 4, 1, 5);
      const Four e = __builtin_shufflevector(line[2], line[3], 2, 6, 3, 7);
      line[0] = __builtin_shufflevector(a, d, 0, 1, 4, 5);
      line[1] = __builtin_shufflevector(a, d, 2, 3, 6, 7);
      line[2] = __builtin_shufflevector(b, e, 0, 1, 4, 5);
      line[3] = __builtin_shufflevector(b, e, 2, 3, 6, 7);
      for (int k = 0; k < 4; ++k) std::memcpy(to + (c + k) * rows + r, &line[k], sizeof(Four));
    }
  }
  return;
#endif
#endif
  by_element(rows, columns, kSide, kSide, from, to);
}

template <class T>
void strip(int64_t first, int64_t rows, int64_t columns, const T* from, T* to) {
  const int64_t height = std::min(kSide, rows - first);
  for (int64_t c = 0; c < columns; c += kSide) {
    const int64_t width = std::min(kSide, columns - c);
    const T* corner = from + first * columns + c;
    T* turned = to + c * rows + first;
    if (height == kSide && width == kSide) {
      square(rows, columns, corner, turned);
    } else {
      by_element(rows, columns, height, width, corner, turned);
    }
  }
}

template <class T>
void typed(int64_t batch, int64_t rows, int64_t columns, const void* from, void* to, const Parallel& parallel) {
  const int64_t strips = (rows + kSide - 1) / kSide, size = rows * columns;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, kSide * columns));
  parallel(batch * strips, grain, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t skipped = item / strips * size;
      strip(item % strips * kSide, rows, columns, static_cast<const T*>(from) + skipped, static_cast<T*>(to) + skipped);
    }
  });
}

}  // namespace

void transpose(int64_t batch, int64_t rows, int64_t columns, int64_t element_size, const void* from, void* to,
               const Parallel& parallel) {
  if (batch * rows * columns == 0) return;
  const auto run = element_size == 8 ? typed<uint64_t> : element_size == 4 ? typed<uint32_t> : typed<uint16_t>;
  run(batch, rows, columns, from, to, parallel);
}

}  // namespace atrous
