// The compiler's own vectors of four floats: SSE, NEON, or whatever the processor surely has.
#include "block_templates.h"

namespace atrous {
namespace {

struct Portable {
  typedef float V __attribute__((vector_size(16)));
  typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));
  static constexpr int L = 4;
  static constexpr int kSlot = L;
  static constexpr int kStep = 1;
  static constexpr bool kByColumn = false;
  struct Mask {};
  static Mask all() { return {}; }
  static Mask between(int64_t, int64_t) { return {}; }
  static V set(float value) { return V{value, value, value, value}; }
  static V load(const float* at) { return *reinterpret_cast<const Unaligned*>(at); }
  static V load(const float* at, Mask) { return load(at); }
  using First = int64_t;
  static First first(int64_t n) { return n; }
  static V load_first(const float* at, First n) {
    if (n >= L) return load(at);
    V value = set(0);
    for (int64_t i = 0; i < n; ++i) value[i] = at[i];
    return value;
  }
  static void store(float* at, V value) { *reinterpret_cast<Unaligned*>(at) = value; }
  static void store_first(float* at, First n, V value) {
    if (n >= L) return store(at, value);
    for (int64_t i = 0; i < n; ++i) at[i] = value[i];
  }
  // Every second of n floats.
  static V load_even(const float* at, int64_t n) {
    V value = set(0);
    for (int64_t i = 0; i < L && 2 * i < n; ++i) value[i] = at[2 * i];
    return value;
  }
  // The first n floats of a0 b0 a1 b1 ...
  static void store_woven(float* at, int64_t n, V a, V b) {
    for (int64_t i = 0; i < 2 * L && i < n; ++i) at[i] = i % 2 ? b[i / 2] : a[i / 2];
  }
  static void pin(V&) {}
  static V fma(V a, V b, V c) { return a * b + c; }
};

template <class S>
void add_single_vectors(Kernels& k) {
  k.lanes = S::L;
  add_conv<S, 1, 1, 2, 4, 8>(k);
  add_grad<S, 1, 1, 2, 4, 8>(k);
}

}  // namespace

const Kernels* kernels_portable() {
  static const Kernels by_column = [] {
    Kernels k{};
    add_single_vectors<ByColumn<Portable>>(k);
    return k;
  }();
  static const Kernels kernels = [] {
    Kernels k{};
    add_rows<Portable>(k);
    add_single_vectors<Portable>(k);
    add_conv<Portable, 2, 1, 2, 4>(k);
    add_conv<Portable, 4, 1>(k);
    add_grad<Portable, 2, 1, 2, 4>(k);
    k.by_column = &by_column;
    return k;
  }();
  return &kernels;
}

}  // namespace atrous
