// Runs the cases that `sanitize.py` prints on buffers of their exact size, under the address and undefined-behaviour
// sanitizers, on every instruction set of this processor, and compares with the definition; cut as threads would cut
// the work, it must give the same bits.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/taps.h"
#include "kernels/transpose.h"

namespace {

using atrous::Problem;

using atrous::narrow;
using atrous::Wide;
using atrous::widen;

// A heap block of its own, so that the first element outside it is an error.
template <class T>
struct Buffer {
  explicit Buffer(int64_t n, unsigned seed = 0) : size(n), data(new T[static_cast<size_t>(n)]) {
    for (int64_t i = 0; i < n; ++i) {
      seed = seed * 1664525u + 1013904223u;
      data[static_cast<size_t>(i)] = narrow<T>(static_cast<Wide<T>>(seed >> 8) / (1 << 23) - 1);
    }
  }
  int64_t size;
  std::unique_ptr<T[]> data;
};

// Float32 sums, rounded to as many bits as T has.
template <class T>
constexpr double kTolerance = sizeof(T) == 8   ? 1e-12
                              : sizeof(T) == 4 ? 1e-4
                                               : 1e-2;

template <class T>
bool close(const Buffer<T>& result, const Buffer<T>& expected) {
  const auto at = [](const Buffer<T>& b, int64_t i) {
    return static_cast<double>(widen(b.data[static_cast<size_t>(i)]));
  };
  double largest = 1;
  for (int64_t i = 0; i < expected.size; ++i) largest = std::fmax(largest, std::fabs(at(expected, i)));
  for (int64_t i = 0; i < expected.size; ++i) {
    if (!(std::fabs(at(result, i) - at(expected, i)) <= kTolerance<T> * largest)) return false;
  }
  return true;
}

template <class T>
bool same(const Buffer<T>& a, const Buffer<T>& b) {
  return std::memcmp(a.data.get(), b.data.get(), static_cast<size_t>(a.size) * sizeof(T)) == 0;
}

void in_one(int64_t items, int64_t, const atrous::Body& body) {
  if (items > 0) body(0, items);
}

// Three cuts, as far as the grain allows; the last one first.
void in_three(int64_t items, int64_t grain, const atrous::Body& body) {
  const int64_t size = std::max(grain, (items + 2) / 3);
  for (int64_t begin = (items - 1) / size * size; begin >= 0 && items > 0; begin -= size) {
    body(begin, std::min(begin + size, items));
  }
}

// One line: name batch groups in_channels out_channels taps axes per_pair channels_last bias, (in out stride upsample)
// of four axes, offsets.
struct Case {
  explicit Case(const std::string& text) {
    std::istringstream line(text);
    line >> name >> p.batch >> p.groups >> p.in_channels >> p.out_channels >> p.taps >> p.axes >> p.per_pair >>
        p.channels_last >> has_bias;
    for (atrous::Axis& axis : p.axis) line >> axis.in >> axis.out >> axis.stride >> axis.upsample;
    for (int32_t offset; line >> offset;) offsets.push_back(offset);
    offsets.shrink_to_fit();
    p.offsets = offsets.data();
  }
  std::string name;
  Problem p{};
  bool has_bias = false;
  std::vector<int32_t> offsets;
};

template <class T>
bool run(const Case& c, const char* type) {
  const Problem& p = c.p;
  const int64_t channels = p.channels(), list = p.in_channels * p.taps, planes = p.groups * p.out_channels;
  const Buffer<T> input(p.batch * p.groups * p.in_channels * p.in_size(), 1), weight(channels * list, 2),
      bias(channels, 3);
  const Buffer<T> grad(p.batch * planes * p.out_size(), 4), output(grad.size), weight_grad(weight.size);
  const T* b = c.has_bias ? bias.data.get() : nullptr;
  for (int64_t o = 0; o < channels; ++o) {
    atrous::exact::tap_conv(p, o, input.data.get(), weight.data.get(), b, output.data.get());
    atrous::exact::tap_conv_weight(p, o, grad.data.get(), input.data.get(), weight_grad.data.get());
  }
  bool good = true;
  for (const char* isa : {"portable", "avx2", "avx512"}) {
    const atrous::Kernels<T>* kernels = atrous::find_kernels<T>(isa);
    if (!kernels) continue;
    Buffer<T> y(output.size), w(weight_grad.size), y_cut(output.size), w_cut(weight_grad.size);
    atrous::tap_conv(p, input.data.get(), weight.data.get(), b, y.data.get(), *kernels, in_one);
    atrous::tap_conv(p, input.data.get(), weight.data.get(), b, y_cut.data.get(), *kernels, in_three);
    atrous::tap_conv_weight(p, grad.data.get(), input.data.get(), w.data.get(), *kernels, in_one);
    atrous::tap_conv_weight(p, grad.data.get(), input.data.get(), w_cut.data.get(), *kernels, in_three);
    if (!same(y, y_cut) || !same(w, w_cut)) {
      std::fprintf(stderr, "%s: other bits when cut, %s on %s\n", c.name.c_str(), type, isa);
      good = false;
    }
    if (!close(y, output) || !close(w, weight_grad)) {
      std::fprintf(stderr, "%s: wrong, %s on %s\n", c.name.c_str(), type, isa);
      good = false;
    }
  }
  return good;
}

// Matrices whose sides are whole squares of the transposition, and such that are not.
template <class T>
int transpositions() {
  int wrong = 0;
  for (const int64_t rows : {1, 5, 16, 33, 48}) {
    for (const int64_t columns : {1, 7, 16, 35, 64}) {
      const int64_t batch = 3, size = rows * columns;
      const Buffer<T> from(batch * size, 1);
      Buffer<T> to(batch * size), cut(batch * size);
      atrous::transpose(batch, rows, columns, sizeof(T), from.data.get(), to.data.get(), in_one);
      atrous::transpose(batch, rows, columns, sizeof(T), from.data.get(), cut.data.get(), in_three);
      bool good = same(to, cut);
      for (int64_t i = 0; i < from.size; ++i) {
        const int64_t r = i % size / columns, c = i % columns, there = i / size * size + c * rows + r;
        good &= std::memcmp(&to.data[static_cast<size_t>(there)], &from.data[static_cast<size_t>(i)], sizeof(T)) == 0;
      }
      if (!good)
        std::fprintf(stderr, "transpose: wrong for %d x %d\n", static_cast<int>(rows), static_cast<int>(columns));
      wrong += !good;
    }
  }
  return wrong;
}

}  // namespace

int main() {
  int cases = 0, wrong = transpositions<float>() + transpositions<double>() + transpositions<atrous::BFloat16>();
  for (std::string text; std::getline(std::cin, text); ++cases) {
    const Case c(text);
    const bool good[] = {run<float>(c, "float32"), run<double>(c, "float64"), run<atrous::BFloat16>(c, "bfloat16"),
                         run<atrous::Float16>(c, "float16")};
    wrong += !(good[0] && good[1] && good[2] && good[3]);
  }
  std::printf("%d cases in 4 element types, and transpositions: %d wrong\n", cases, wrong);
  return cases == 0 || wrong != 0;
}
