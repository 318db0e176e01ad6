// The two operations on raw buffers of elements T: no torch, no allocation of tensors.
//
// Legend: B batch, C channels in and D channels out of one group, G groups, T taps, N axes.
#pragma once

#include <cstdint>
#include <functional>

#include "element.h"

namespace atrous {

// One axis: output p reads input (p * stride + offset) / upsample where that is an integer inside [0, in).
struct Axis {
  int64_t in = 1, out = 1, stride = 1, upsample = 1;
};

// A call, apart from its buffers: input (B, G * C, *in), weight (G * D, C, T), output (B, G * D, *out), all contiguous.
//
// Channels that lie last in memory, each with its own weight and all with the same offsets, are a last axis that no tap
// moves along: input (B, *in), weight (channels, T), output (B, *out), with one group of one channel.
struct Problem {
  int64_t batch, groups, in_channels, out_channels, taps;
  Axis axis[4];            // two of depth, then rows and columns; axes that the call lacks are of one pixel
  int axes;                // N: the offsets hold the last N of them, or the last before the channels
  const int32_t* offsets;  // (T, N) or, per pair, (G * D, C, T, N)
  bool per_pair;
  bool channels_last;

  int64_t in_size() const { return axis[0].in * axis[1].in * axis[2].in * axis[3].in; }
  int64_t out_size() const { return axis[0].out * axis[1].out * axis[2].out * axis[3].out; }
  int64_t depths() const { return axis[0].out * axis[1].out; }
  // Rows of the weight.
  int64_t channels() const { return channels_last ? axis[3].out : groups * out_channels; }

  // The offset of tap t, from channel c to output channel o (of all), along an axis.
  int64_t offset(int64_t o, int64_t c, int64_t t, int a) const {
    const int n = a - (4 - axes) + channels_last;
    if (n < 0 || n >= axes) return 0;
    const int64_t pair = per_pair ? o * in_channels + c : 0;
    return offsets[(pair * taps + t) * axes + n];
  }
};

// Runs f(begin, end) over cuts of [0, items), on as many threads as it likes; no cut below `grain` items.
using Body = std::function<void(int64_t, int64_t)>;
using Parallel = std::function<void(int64_t items, int64_t grain, const Body& body)>;

// The definition, one multiplication after another: the oracle of the fast paths, and what runs where a weight or a
// gradient is not finite, because the fast paths multiply zero margins.
namespace exact {
template <class T>
void tap_conv(const Problem& problem, int64_t out_channel, const T* input, const T* weight, const T* bias, T* output);
template <class T>
void tap_conv_weight(const Problem& problem, int64_t out_channel, const T* grad, const T* input, T* weight_grad);
}  // namespace exact

// The instruction sets: what `isa` names ("portable", "avx2", "avx512"; "" is the best), or null if it cannot run here.
template <class T>
struct Kernels;
template <class T>
const Kernels<T>* find_kernels(const char* isa);

template <class T>
void tap_conv(const Problem& problem, const T* input, const T* weight, const T* bias, T* output,
              const Kernels<T>& kernels, const Parallel& parallel);
template <class T>
void tap_conv_weight(const Problem& problem, const T* grad, const T* input, T* weight_grad, const Kernels<T>& kernels,
                     const Parallel& parallel);

}  // namespace atrous
