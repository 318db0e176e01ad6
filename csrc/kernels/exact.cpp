#include <algorithm>
#include <vector>

#include "taps.h"

namespace atrous::exact {
namespace {

// The outputs along one axis whose tap lands on a pixel: `first`, then every `step`-th up to before `last`; the pixel
// of the first is `pixel`, and the next one is `stride / gcd` further.
struct Reach {
  int64_t first = 0, last = 0, step = 1, pixel = 0, jump = 1;
};

Reach reach(const Axis& axis, int64_t offset) {
  Reach r;
  for (int64_t p = 0; p < axis.out; ++p) {
    const int64_t at = p * axis.stride + offset;
    if (at % axis.upsample != 0 || at < 0 || at / axis.upsample >= axis.in) continue;
    if (r.last == 0) {
      r.first = p;
      r.pixel = at / axis.upsample;
    } else if (r.step == 1 && r.last == r.first + 1) {
      r.step = p - r.first;
      r.jump = at / axis.upsample - r.pixel;
    }
    r.last = p + 1;
  }
  return r;
}

// Calls f(p, i) for every output index p and input index i that the tap joins.
template <class F>
void each_pair(const Problem& problem, int64_t o, int64_t c, int64_t t, const F& f) {
  Reach r[4];
  for (int a = 0; a < 4; ++a) r[a] = reach(problem.axis[a], problem.offset(o, c, t, a));
  if (problem.channels_last) r[3] = {o, o + 1, 1, o, 1};
  const auto along = [&](const auto& self, int a, int64_t p, int64_t i) -> void {
    if (a == 4) return f(p, i);
    int64_t pixel = r[a].pixel;
    for (int64_t at = r[a].first; at < r[a].last; at += r[a].step, pixel += r[a].jump) {
      self(self, a + 1, p * problem.axis[a].out + at, i * problem.axis[a].in + pixel);
    }
  };
  along(along, 0, 0, 0);
}

// Where output channel o lies among the planes: with channels last there is one plane of all.
struct Planes {
  Planes(const Problem& p, int64_t o)
      : outputs(p.groups * p.out_channels), output(p.channels_last ? 0 : o), group(output / p.out_channels) {}
  int64_t outputs, output, group;
};

}  // namespace

template <class T>
void tap_conv(const Problem& problem, int64_t o, const T* input, const T* weight, const T* bias, T* output) {
  const Planes at(problem, o);
  // With channels last every `apart`-th element from `first` on is one of this channel.
  const int64_t first = problem.channels_last ? o : 0, apart = problem.channels_last ? problem.axis[3].out : 1;
  std::vector<Wide<T>> sums(static_cast<size_t>(problem.out_size() / apart));
  for (int64_t b = 0; b < problem.batch; ++b) {
    std::fill(sums.begin(), sums.end(), bias ? widen(bias[o]) : Wide<T>{});
    for (int64_t c = 0; c < problem.in_channels; ++c) {
      const T* x = input + ((b * problem.groups + at.group) * problem.in_channels + c) * problem.in_size();
      for (int64_t t = 0; t < problem.taps; ++t) {
        const Wide<T> w = widen(weight[(o * problem.in_channels + c) * problem.taps + t]);
        each_pair(problem, o, c, t,
                  [&](int64_t p, int64_t i) { sums[static_cast<size_t>(p / apart)] += w * widen(x[i]); });
      }
    }
    T* y = output + (b * at.outputs + at.output) * problem.out_size() + first;
    for (const Wide<T> sum : sums) {
      *y = narrow<T>(sum);
      y += apart;
    }
  }
}

template <class T>
void tap_conv_weight(const Problem& problem, int64_t o, const T* grad, const T* input, T* weight_grad) {
  const Planes at(problem, o);
  for (int64_t c = 0; c < problem.in_channels; ++c) {
    for (int64_t t = 0; t < problem.taps; ++t) {
      double total = 0;  // one accumulator for a whole batch: float32 would lose digits that the fast path keeps
      for (int64_t b = 0; b < problem.batch; ++b) {
        const T* g = grad + (b * at.outputs + at.output) * problem.out_size();
        const T* x = input + ((b * problem.groups + at.group) * problem.in_channels + c) * problem.in_size();
        each_pair(problem, o, c, t, [&](int64_t p, int64_t i) {
          total += static_cast<double>(widen(g[p])) * static_cast<double>(widen(x[i]));
        });
      }
      weight_grad[(o * problem.in_channels + c) * problem.taps + t] = narrow<T>(static_cast<Wide<T>>(total));
    }
  }
}

#define ATROUS_INSTANTIATE(T)                                                        \
  template void tap_conv(const Problem&, int64_t, const T*, const T*, const T*, T*); \
  template void tap_conv_weight(const Problem&, int64_t, const T*, const T*, T*);
ATROUS_FOR_ELEMENTS(ATROUS_INSTANTIATE)

}  // namespace atrous::exact
