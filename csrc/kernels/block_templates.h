// The blocks, written once for every instruction set S: elements S::T in memory, S::V a vector of S::L of what they are
// computed in, S::kSlot what an accumulator takes in memory, S::kStep the distance between the elements of a source
// that count. Included by one file per set, each compiled with its own flags; nothing here may be shared between them,
// hence the unnamed namespace.
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

ATROUS_INLINE void fetch(Stretches& next, int64_t lines) {
  if (next.count == 0) return;
  const int64_t end = next.done + lines < next.lines ? next.done + lines : next.lines;
  for (int64_t line = next.done; line < end; ++line) __builtin_prefetch(next.at + kLineBytes * line, 0, 2);
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
ATROUS_INLINE void each_row(const typename S::T* x, const typename S::Mask (&lanes)[V], int64_t pitch, const Span& span,
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
ATROUS_INLINE void each_run(const Block<typename S::T>& block, const Span& span, const Use& use) {
  const int64_t first = -(block.column + V * S::L), last = span.width - block.column;
  const auto* const at = block.source + block.windows[span.window] + span.at + block.column * S::kStep;
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
ATROUS_INLINE void each_span(const Span* span, const Span* end, const Use& use) {
  const auto all_of = [&](auto height) __attribute__((always_inline)) {
    for (; span != end && span->height == height.kTaps; ++span) use(*span, height);
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
void conv_block(const Block<typename S::T>& block, const Wide<typename S::T>* weights, const Wide<typename S::T>* bias,
                typename S::T* y, int64_t y_pitch) {
  const int64_t pitch = block.pitch;
  typename S::V sum[A * R][V];
  static_assert(V == 1 || !S::kByColumn);
  if (block.resume) {
    ATROUS_UNROLL for (int i = 0; i < A * R; ++i) {
      ATROUS_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = S::load(block.resume + (i * V + v) * S::L);
    }
  } else {
    const typename S::V start = S::kByColumn ? S::load(bias + block.column) : S::set(*bias);
    ATROUS_UNROLL for (int i = 0; i < A * R; ++i) ATROUS_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = start;
  }
  each_span(block.spans, block.end, [&](const Span& span, auto height) __attribute__((always_inline)) {
    constexpr int N = decltype(height)::kTaps;
    each_run<S, V>(block, span, [&](const auto* x, const auto& lanes, int32_t packed) __attribute__((always_inline)) {
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
  if (block.leave) {
    ATROUS_UNROLL for (int i = 0; i < A * R; ++i) {
      ATROUS_UNROLL for (int v = 0; v < V; ++v) S::store(block.leave + (i * V + v) * S::L, sum[i][v]);
    }
    return;
  }
  typename S::First valid[V];
  ATROUS_UNROLL for (int v = 0; v < V; ++v) valid[v] = S::first(block.valid - v * S::L);
  ATROUS_UNROLL for (int i = 0; i < A * R; ++i) {
    if (!(block.stored >> i & 1)) continue;
    auto* const row = y + i / R * block.apart + i % R * y_pitch;
    ATROUS_UNROLL for (int v = 0; v < V; ++v) S::store_first(row + v * S::L, valid[v], sum[i][v]);
  }
}

template <class S, int A, int R, int V>
void grad_block(const Block<typename S::T>& block, const typename S::T* grad, int64_t grad_pitch,
                Wide<typename S::T>* accumulators) {
  const int64_t pitch = block.pitch;
  typename S::First valid[V];
  ATROUS_UNROLL for (int v = 0; v < V; ++v) valid[v] = S::first(block.valid - v * S::L);
  typename S::V g[A * R][V];
  ATROUS_UNROLL for (int i = 0; i < A * R; ++i) ATROUS_UNROLL for (int v = 0; v < V; ++v) g[i][v] = S::set(0);
  ATROUS_UNROLL for (int i = 0; i < A * R; ++i) {
    if (!(block.stored >> i & 1)) continue;
    const auto* const row = grad + i / R * block.apart + i % R * grad_pitch;
    ATROUS_UNROLL for (int v = 0; v < V; ++v) g[i][v] = S::load_first(row + v * S::L, valid[v]);
  }
  each_span(block.spans, block.end, [&](const Span& span, auto height) __attribute__((always_inline)) {
    constexpr int N = decltype(height)::kTaps;
    each_run<S, V>(block, span, [&](const auto* x, const auto& lanes, int32_t packed) __attribute__((always_inline)) {
      const int64_t slot = S::kByColumn ? block.weights : S::kSlot;
      auto* const total = accumulators + packed * slot + (S::kByColumn ? block.column : 0);
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

// Calls use(x, packed, N) for each strip that sees the image, N being its height as a constant.
template <class S, class W, class Use>
ATROUS_INLINE void each_strip(const CellBlock<W>& block, const Use& use) {
  const auto all_of = [&](auto height) __attribute__((always_inline)) {
    constexpr int N = decltype(height)::kTaps;
    for (const Strip *strip = block.begin[N], *end = block.end[N]; strip != end; ++strip) {
      if (strip->row <= block.rows_above - (N - 1) || strip->row >= block.rows_below) continue;
      if (strip->column <= block.columns_before || strip->column >= block.columns_behind) continue;
      use(block.source + strip->at, strip->packed, height);
    }
  };
  all_of(Height<3>());
  all_of(Height<2>());
  all_of(Height<1>());
}

template <class S, int R, int V, class W = typename S::T>
void conv_cells(const CellBlock<W>& block, const W* weights, W start, W* sums) {
  const int64_t pitch = block.pitch;
  typename S::V sum[R][V];
  ATROUS_UNROLL for (int i = 0; i < R; ++i) ATROUS_UNROLL for (int v = 0; v < V; ++v) sum[i][v] = S::set(start);
  each_strip<S>(block, [&](const W* x, int32_t packed, auto height) __attribute__((always_inline)) {
    constexpr int N = decltype(height)::kTaps;
    typename S::V w[N];
    ATROUS_UNROLL for (int n = 0; n < N; ++n) w[n] = S::set(weights[packed + n]);
    ATROUS_UNROLL for (int m = 0; m < R + N - 1; ++m, x += pitch) {
      ATROUS_UNROLL for (int v = 0; v < V; ++v) {
        auto value = S::load(x + v * S::L);
        S::pin(value);
        ATROUS_UNROLL for (int n = 0; n < N; ++n) {
          if (m - n >= 0 && m - n < R) sum[m - n][v] = S::fma(w[n], value, sum[m - n][v]);
        }
      }
    }
  });
  ATROUS_UNROLL for (int i = 0; i < R; ++i) {
    ATROUS_UNROLL for (int v = 0; v < V; ++v) S::store(sums + i * block.out_pitch + v * S::L, sum[i][v]);
  }
}

template <class S, int R, int V, class W = typename S::T>
void grad_cells(const CellBlock<W>& block, const W* grad, W* accumulators) {
  const int64_t pitch = block.pitch;
  typename S::V g[R][V];
  ATROUS_UNROLL for (int i = 0; i < R; ++i) {
    ATROUS_UNROLL for (int v = 0; v < V; ++v) g[i][v] = S::load(grad + i * block.out_pitch + v * S::L);
  }
  each_strip<S>(block, [&](const W* x, int32_t packed, auto height) __attribute__((always_inline)) {
    constexpr int N = decltype(height)::kTaps;
    constexpr int C = N == 1 ? 4 : 2;  // sums of one tap: additions wait for one another
    W* const total = accumulators + packed * S::kSlot;
    typename S::V sum[N][C];
    ATROUS_UNROLL for (int n = 0; n < N; ++n) {
      sum[n][0] = S::load(total + n * S::kSlot);
      ATROUS_UNROLL for (int c = 1; c < C; ++c) sum[n][c] = S::set(0);
    }
    ATROUS_UNROLL for (int m = 0; m < R + N - 1; ++m, x += pitch) {
      ATROUS_UNROLL for (int v = 0; v < V; ++v) {
        auto value = S::load(x + v * S::L);
        S::pin(value);
        ATROUS_UNROLL for (int n = 0; n < N; ++n) {
          auto& s = sum[n][(m * V + v) % C];
          if (m - n >= 0 && m - n < R) s = S::fma(g[m - n][v], value, s);
        }
      }
    }
    ATROUS_UNROLL for (int n = 0; n < N; ++n) {
      ATROUS_UNROLL for (int c = 1; c < C; ++c) sum[n][0] = sum[n][0] + sum[n][c];
      S::store(total + n * S::kSlot, sum[n][0]);
    }
  });
}

// Rows of `columns` elements, `stride` apart, to rows that lie side by side.
template <class S, class T = typename S::T>
void copy_rows(const T* from, int64_t from_pitch, int64_t stride, T* to, int64_t to_pitch, int64_t rows,
               int64_t columns) {
  for (int64_t row = 0; row < rows; ++row, from += from_pitch, to += to_pitch) {
    int64_t i = 0;
    if (stride == 1) {
      for (; i < columns; i += S::L) S::copy(from + i, to + i, S::first(columns - i));
    } else if constexpr (requires { S::copy_even(from, to, 0); }) {
      for (; stride == 2 && i < columns; i += S::L) S::copy_even(from + 2 * i, to + i, columns - i);
    }
    for (; i < columns; ++i) to[i] = from[stride * i];
  }
}

// Two blocks to every second column each: `columns` in all, the first from `even`.
template <class S, class T = typename S::T>
void weave_rows(const Wide<T>* even, const Wide<T>* odd, int64_t from_pitch, T* to, int64_t to_pitch, int64_t rows,
                int64_t columns) {
  for (int64_t row = 0; row < rows; ++row, even += from_pitch, odd += from_pitch, to += to_pitch) {
    if constexpr (requires { S::store_woven(to, 0, S::load(even), S::load(odd)); }) {
      for (int64_t i = 0; 2 * i < columns; i += S::L) {
        S::store_woven(to + 2 * i, columns - 2 * i, S::load(even + i), S::load(odd + i));
      }
    } else {
      for (int64_t i = 0; i < columns; ++i) to[i] = narrow<T>(i % 2 ? odd[i / 2] : even[i / 2]);
    }
  }
}

template <class S, class W = Wide<typename S::T>>
W sum_of_lanes(const W* lanes) {
  W sums[S::kSlot];
  for (int i = 0; i < S::kSlot; ++i) sums[i] = lanes[i];
  ATROUS_UNROLL for (int half = S::kSlot / 2; half > 0; half /= 2) {
    ATROUS_UNROLL for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

template <class S, int V, int... R>
void add_conv(Kernels<typename S::T>& kernels) {
  ((kernels.conv[V][R] = conv_block<S, 1, R, V>), ...);
}

template <class S, int V, int... R>
void add_grad(Kernels<typename S::T>& kernels) {
  ((kernels.grad[V][R] = grad_block<S, 1, R, V>), ...);
}

template <class S, int A, int R>
void add_lines(Kernels<typename S::T>& kernels) {
  kernels.line_rows[A] = R;
  kernels.conv_lines[A] = conv_block<S, A, R, 1>;
  kernels.grad_lines[A] = grad_block<S, A, R, 1>;
}

template <class S, int V, int... R>
void add_conv_cells(Kernels<typename S::T>& kernels) {
  if constexpr (__is_same(typename S::T, Wide<typename S::T>)) ((kernels.conv_cells[V][R] = conv_cells<S, R, V>), ...);
}

template <class S, int V, int... R>
void add_grad_cells(Kernels<typename S::T>& kernels) {
  if constexpr (__is_same(typename S::T, Wide<typename S::T>)) ((kernels.grad_cells[V][R] = grad_cells<S, R, V>), ...);
}

template <class S>
void add_rows(Kernels<typename S::T>& kernels, const char* isa) {
  kernels.isa = isa;
  kernels.lanes = S::L;
  kernels.bytes = sizeof(typename S::T);
  kernels.sum = sum_of_lanes<S>;
  kernels.copy = copy_rows<S>;
  kernels.weave = weave_rows<S>;
}

}  // namespace
}  // namespace atrous
