#include <algorithm>

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
  Reach r[3];
  for (int a = 0; a < 3; ++a) r[a] = reach(problem.axis[a], problem.offset(o, c, t, a));
  int64_t iz = r[0].pixel;
  for (int64_t z = r[0].first; z < r[0].last; z += r[0].step, iz += r[0].jump) {
    int64_t iy = r[1].pixel;
    for (int64_t y = r[1].first; y < r[1].last; y += r[1].step, iy += r[1].jump) {
      const int64_t p = (z * problem.axis[1].out + y) * problem.axis[2].out;
      const int64_t i = (iz * problem.axis[1].in + iy) * problem.axis[2].in;
      int64_t ix = r[2].pixel;
      for (int64_t x = r[2].first; x < r[2].last; x += r[2].step, ix += r[2].jump) f(p + x, i + ix);
    }
  }
}

}  // namespace

void tap_conv(const Problem& problem, int64_t o, const float* input, const float* weight, const float* bias,
              float* output) {
  const int64_t group = o / problem.out_channels, outputs = problem.groups * problem.out_channels;
  for (int64_t b = 0; b < problem.batch; ++b) {
    float* y = output + (b * outputs + o) * problem.out_size();
    std::fill_n(y, problem.out_size(), bias ? bias[o] : 0.0f);
    for (int64_t c = 0; c < problem.in_channels; ++c) {
      const float* x = input + ((b * problem.groups + group) * problem.in_channels + c) * problem.in_size();
      for (int64_t t = 0; t < problem.taps; ++t) {
        const float w = weight[(o * problem.in_channels + c) * problem.taps + t];
        each_pair(problem, o, c, t, [&](int64_t p, int64_t i) { y[p] += w * x[i]; });
      }
    }
  }
}

void tap_conv_weight(const Problem& problem, int64_t o, const float* grad, const float* input, float* weight_grad) {
  const int64_t group = o / problem.out_channels, outputs = problem.groups * problem.out_channels;
  for (int64_t c = 0; c < problem.in_channels; ++c) {
    for (int64_t t = 0; t < problem.taps; ++t) {
      double total = 0;  // one accumulator for a whole batch: float32 would lose digits that the fast path keeps
      for (int64_t b = 0; b < problem.batch; ++b) {
        const float* g = grad + (b * outputs + o) * problem.out_size();
        const float* x = input + ((b * problem.groups + group) * problem.in_channels + c) * problem.in_size();
        each_pair(problem, o, c, t, [&](int64_t p, int64_t i) { total += static_cast<double>(g[p]) * x[i]; });
      }
      weight_grad[(o * problem.in_channels + c) * problem.taps + t] = static_cast<float>(total);
    }
  }
}

}  // namespace atrous::exact
