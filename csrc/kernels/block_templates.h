// The blocks, written once for every instruction set S: S::V is a vector of S::L floats, S::kSlot what an accumulator
// takes in memory, S::kStep the distance between the floats of a source that count. Included by one file per set, each
// compiled with its own flags; nothing here may be shared between them, hence the unnamed namespace.
#pragma once

#include "blocks.h"

namespace atrous {
namespace {

// S with weights (or accumulators) of its own for each column.
template <class S>
struct ByColumn : S {
  static constexpr bool kByColumn = true;
};

#define ATROUS_UNROLL _Pragma("GCC unroll 32")
#define ATROUS_INLINE inline __attribute__((always_inline))

ATROUS_INLINE void fetch(Stretches& next, int64_t lines) {
  if (next.count == 0) return;
  const int64_t end = next.done + lines < next.lines ? next.done + lines : next.lines;
  for (int64_t line = next.done; line < end; ++line) __builtin_prefetch(next.at + 16 * line, 0, 2);
  next.done = end;
  if (end == next.lines) {
    next.done = 0;
    next.at += next.apart;
    --next.count;
  }
}

// One register for the rows of one line, where tests of single bits are cheapest.
template <int A>
struct Bits {
  using Type = uint64_t;
};
template <>
struct Bits<1> {
  using Type = uint32_t;
};

// Calls use(l, m, v, value) for each source row m of each of A lines that `span` admits, and each of its V vectors.
template <class S, int A, int ROWS, int V, class Use>
ATROUS_INLINE void each_row(const float* x, const typename S::Mask (&lanes)[V], int64_t pitch, const Span& span,
                            const Use& use) {
  auto rows = static_cast<typename Bits<A>::Type>(span.rows);
  asm volatile("" : "+r"(rows));  // else the compiler keeps the outcome of every test below alive over all runs
  ATROUS_UNROLL for (int l = 0; l < A; ++l, x += span.apart - ROWS * pitch) {
    ATROUS_UNROLL for (int m = 0; m < ROWS; ++m, x += pitch) {
      if (!(rows >> (l * ROWS + m) & 1)) continue;
      ATROUS_UNROLL for (int v = 0; v < V; ++v) {
        auto value = S::load(x + v * S::L * S::kStep, lanes[v]);
        S::pin(value);
        use(l, m, v, value);
      }
    }
  }
}

// Calls use(x, lanes, packed) for each run of the span that the block's columns can see; `lanes` are those to read.
template <class S, int V, class Use>
ATROUS_INLINE void each_run(const Block& block, const Span& span, const Use& use) {
  const int64_t first = -(block.column + V * S::L), last = span.width - block.column;
  const float* const at = block.source + block.windows[span.window] + span.at + block.column * S::kStep;
  for (const Run *run = span.runs, *end = run + span.count; run != end; ++run) {
    if (run->dx <= first || run->dx >= last) continue;
    typename S::Mask lanes[V];
    const int64_t column = block.column + run->dx;
    if (block.margins || (column >= 0 && column + V * S::L <= span.width)) {
      ATROUS_UNROLL for (int v = 0; v < V; ++v) lanes[v] = S::all();
    } else {
      ATROUS_UNROLL for (int v = 0; v < V; ++v) lanes[v] =
          S::between(-column - v * S::L, span.width - column - v * S::L);
    }
    use(at + run->dx * S::kStep, lanes, run->packed);
    fetch(block.ahead->reads, block.ahead->lines_per_run);
    fetch(block.ahead->writes, block.ahead->lines_per_run);
  }
}

// Calls use(span, N) for each span, N being its height as a constant: runs are of 1, 2, 3, 4, 5 or 7 taps.
template <int N>
struct Height {
  static constexpr int kTaps = N;
};

template <class Use>
ATROUS_INLINE void each_span(const Block& block, const Use& use) {
  const Span* span = block.spans;
  const auto all_of = [&](auto height) __attribute__((always_inline)) {
    for (; span != block.end && span->height == height.kTaps; ++span) use(*span, height);
  };
  all_of(Height<7>());
  all_of(Height<5>());
  all_of(Height<4>());
  all_of(Height<3>());
  all_of(Height<2>());
  all_of(Height<1>());
}

// A lines of R rows of V vectors.
template <class S, int A, int R, int V>
void conv_block(const Block& block, const float* weights, const float* bias, float* y, int64_t y_pitch) {
  const int64_t pitch = block.pitch;
  typename S::First valid[V];
  ATROUS_UNROLL for (int v = 0; v < V; ++v) valid[v] = S::first(block.valid - v * S::L);
  typename S::V sum[A * R][V];
  static_assert(V == 1 || !S::kByColumn);
  typename S::V start = S::set(0.0f);
  if (bias) start = S::kByColumn ? S::load(bias + block.column) : S::set(*bias);
  ATROUS_UNROLL for (int i = 0; i < A * R; ++i) ATROUS_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = start;
  if (!bias) {
    ATROUS_UNROLL for (int i = 0; i < A * R; ++i) {
      if (!(block.stored >> i & 1)) continue;
      const float* const row = y + i / R * block.apart + i % R * y_pitch;
      ATROUS_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = S::load_first(row + v * S::L, valid[v]);
    }
  }
  each_span(block, [&](const Span& span, auto height) __attribute__((always_inline)) {
    constexpr int N = decltype(height)::kTaps;
    each_run<S, V>(block, span, [&](const float* x, const auto& lanes, int32_t packed) __attribute__((always_inline)) {
      typename S::V w[N];
      ATROUS_UNROLL for (int n = 0; n < N; ++n) {
        w[n] =
            S::kByColumn ? S::load(weights + (packed + n) * block.weights + block.column) : S::set(weights[packed + n]);
      }
      each_row<S, A, R + N - 1, V>(x, lanes, pitch, span,
                                   [&](int l, int m, int v, auto value) __attribute__((always_inline)) {
                                     ATROUS_UNROLL for (int n = 0; n < N; ++n) {
                                       if (m - n >= 0 && m - n < R)
                                         sum[l * R + m - n][v] = S::fma(w[n], value, sum[l * R + m - n][v]);
                                     }
                                   });
    });
  });
  ATROUS_UNROLL for (int i = 0; i < A * R; ++i) {
    if (!(block.stored >> i & 1)) continue;
    float* const row = y + i / R * block.apart + i % R * y_pitch;
    ATROUS_UNROLL for (int v = 0; v < V; ++v) S::store_first(row + v * S::L, valid[v], sum[i][v]);
  }
}

template <class S, int A, int R, int V>
void grad_block(const Block& block, const float* grad, int64_t grad_pitch, float* accumulators) {
  const int64_t pitch = block.pitch;
  typename S::First valid[V];
  ATROUS_UNROLL for (int v = 0; v < V; ++v) valid[v] = S::first(block.valid - v * S::L);
  typename S::V g[A * R][V];
  ATROUS_UNROLL for (int i = 0; i < A * R; ++i) ATROUS_UNROLL for (int v = 0; v < V; ++v) g[i][v] = S::set(0.0f);
  ATROUS_UNROLL for (int i = 0; i < A * R; ++i) {
    if (!(block.stored >> i & 1)) continue;
    const float* const row = grad + i / R * block.apart + i % R * grad_pitch;
    ATROUS_UNROLL for (int v = 0; v < V; ++v) g[i][v] = S::load_first(row + v * S::L, valid[v]);
  }
  each_span(block, [&](const Span& span, auto height) __attribute__((always_inline)) {
    constexpr int N = decltype(height)::kTaps;
    each_run<S, V>(block, span, [&](const float* x, const auto& lanes, int32_t packed) __attribute__((always_inline)) {
      const int64_t slot = S::kByColumn ? block.weights : S::kSlot;
      float* const total = accumulators + packed * slot + (S::kByColumn ? block.column : 0);
      typename S::V sum[N];
      ATROUS_UNROLL for (int n = 0; n < N; ++n) sum[n] = S::load(total + n * slot);
      each_row<S, A, R + N - 1, V>(x, lanes, pitch, span,
                                   [&](int l, int m, int v, auto value) __attribute__((always_inline)) {
                                     ATROUS_UNROLL for (int n = 0; n < N; ++n) {
                                       if (m - n >= 0 && m - n < R) sum[n] = S::fma(g[l * R + m - n][v], value, sum[n]);
                                     }
                                   });
      ATROUS_UNROLL for (int n = 0; n < N; ++n) S::store(total + n * slot, sum[n]);
    });
  });
}

// Rows of `columns` floats, `stride` apart, to rows that lie side by side.
template <class S>
void copy_rows(const float* from, int64_t from_pitch, int64_t stride, float* to, int64_t to_pitch, int64_t rows,
               int64_t columns) {
  // A last, partial vector; of every second float the row ends before its pair is whole.
  const int64_t whole = (stride == 2 ? columns - 1 : columns) / S::L * S::L, rest = columns - whole;
  for (int64_t row = 0; row < rows; ++row, from += from_pitch, to += to_pitch) {
    if (stride == 1) {
      for (int64_t i = 0; i < whole; i += S::L) S::store(to + i, S::load(from + i));
      if (rest) S::store_first(to + whole, S::first(rest), S::load_first(from + whole, S::first(rest)));
    } else if (stride == 2) {
      for (int64_t i = 0; i < whole; i += S::L) S::store(to + i, S::load_even(from + 2 * i, 2 * S::L));
      S::store_first(to + whole, S::first(rest), S::load_even(from + 2 * whole, 2 * rest - 1));
    } else {
      for (int64_t i = 0; i < columns; ++i) to[i] = from[stride * i];
    }
  }
}

// Two blocks to every second column each: `columns` in all, the first from `even`.
template <class S>
void weave_rows(const float* even, const float* odd, int64_t from_pitch, float* to, int64_t to_pitch, int64_t rows,
                int64_t columns) {
  for (int64_t row = 0; row < rows; ++row, even += from_pitch, odd += from_pitch, to += to_pitch) {
    for (int64_t i = 0; 2 * i < columns; i += S::L) {
      S::store_woven(to + 2 * i, columns - 2 * i, S::load(even + i), S::load(odd + i));
    }
  }
}

template <class S>
float sum_of_lanes(const float* lanes) {
  float sums[S::kSlot];
  for (int i = 0; i < S::kSlot; ++i) sums[i] = lanes[i];
  ATROUS_UNROLL for (int half = S::kSlot / 2; half > 0; half /= 2) {
    ATROUS_UNROLL for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

template <class S, int V, int... R>
void add_conv(Kernels& kernels) {
  ((kernels.conv[V][R] = conv_block<S, 1, R, V>), ...);
}

template <class S, int V, int... R>
void add_grad(Kernels& kernels) {
  ((kernels.grad[V][R] = grad_block<S, 1, R, V>), ...);
}

template <class S, int A, int R>
void add_lines(Kernels& kernels) {
  kernels.line_rows[A] = R;
  kernels.conv_lines[A] = conv_block<S, A, R, 1>;
  kernels.grad_lines[A] = grad_block<S, A, R, 1>;
}

template <class S>
void add_rows(Kernels& kernels) {
  kernels.lanes = S::L;
  kernels.sum = sum_of_lanes<S>;
  kernels.copy = copy_rows<S>;
  kernels.weave = weave_rows<S>;
}

}  // namespace
}  // namespace atrous
