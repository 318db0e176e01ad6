// The compiler's own vectors of 16 bytes: SSE, NEON, or whatever the processor surely has.
#include "block_templates.h"

namespace atrous {
namespace {

template <class Element>
struct Portable {
  using T = Element;
  using W = Wide<T>;
  typedef W V __attribute__((vector_size(16)));
  typedef W Unaligned __attribute__((vector_size(16), aligned(sizeof(W)), may_alias));
  static constexpr int L = 16 / sizeof(W);
  static constexpr int kSlot = L;
  static constexpr int kStep = 1;
  static constexpr bool kByColumn = false;
  struct Mask {};
  static Mask all() { return {}; }
  static Mask between(int64_t, int64_t) { return {}; }
  static V set(W value) { return V{} + value; }
  static V load(const W* at) { return *reinterpret_cast<const Unaligned*>(at); }
  static void store(W* at, V value) { *reinterpret_cast<Unaligned*>(at) = value; }
  static V load(const T* at, Mask) { return load_first(at, L); }
  using First = int64_t;
  static First first(int64_t n) { return n; }
  static V load_first(const T* at, First n) {
    V value = set(0);
    for (int64_t i = 0; i < L && i < n; ++i) value[i] = widen(at[i]);
    return value;
  }
  static void store_first(T* at, First n, V value) {
    for (int64_t i = 0; i < L && i < n; ++i) at[i] = narrow<T>(value[i]);
  }
  static void copy(const T* from, T* to, First n) {
    for (int64_t i = 0; i < L && i < n; ++i) to[i] = from[i];
  }
  static void pin(V&) {}
  static V fma(V a, V b, V c) { return a * b + c; }
};

template <class S>
void add_single_vectors(Kernels<typename S::T>& k) {
  k.lanes = S::L;
  add_conv<S, 1, 1, 2, 4, 8>(k);
  add_grad<S, 1, 1, 2, 4, 8>(k);
}

}  // namespace

template <class T>
const Kernels<T>* kernels_portable() {
  using S = Portable<T>;
  static const Kernels<T> by_column = [] {
    Kernels<T> k{};
    add_single_vectors<ByColumn<S>>(k);
    return k;
  }();
  static const Kernels<T> kernels = [] {
    Kernels<T> k{};
    add_rows<S>(k, "portable");
    add_conv_cells<S, 1, 4, 5>(k);
    add_conv_cells<S, 2, 4, 5>(k);
    add_grad_cells<S, 1, 4>(k);
    add_grad_cells<S, 2, 4>(k);
    add_single_vectors<S>(k);
    add_conv<S, 2, 1, 2, 4>(k);
    add_conv<S, 4, 1>(k);
    add_grad<S, 2, 1, 2, 4>(k);
    k.by_column = &by_column;
    return k;
  }();
  return &kernels;
}

template const Kernels<ATROUS_ELEMENT>* kernels_portable();

}  // namespace atrous
