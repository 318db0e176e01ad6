// Compiled with AVX2 and FMA on x86-64; elsewhere it holds only the null answer.
#include "block_templates.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace atrous {
namespace {

struct Avx2 {
  using V = __m256;
  static constexpr int L = 8;
  static constexpr int kSlot = L;
  static constexpr int kStep = 1;
  static constexpr bool kByColumn = false;
  struct Mask {};
  static Mask all() { return {}; }
  static Mask between(int64_t, int64_t) { return {}; }
  static V set(float value) { return _mm256_set1_ps(value); }
  static V load(const float* at) { return _mm256_loadu_ps(at); }
  static V load(const float* at, Mask) { return load(at); }
  using First = int64_t;
  static First first(int64_t n) { return n; }
  static V load_first(const float* at, First n) {
    if (n >= L) return load(at);
    V value = set(0);
#if defined(ATROUS_ASAN)
    for (int i = 0; i < n; ++i) value[i] = at[i];
#else
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    if (n > 0) value = _mm256_maskload_ps(at, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lanes));
#endif
    return value;
  }
  static void store(float* at, V value) { _mm256_storeu_ps(at, value); }
  // In pieces: a masked store takes some processors as long as ten whole ones.
  static void store_first(float* at, First n, V value) {
    if (n >= L) return store(at, value);
    if (n <= 0) return;
    __m128 part = _mm256_castps256_ps128(value);
    if (n & 4) {
      _mm_storeu_ps(at, part);
      part = _mm256_extractf128_ps(value, 1);
      at += 4;
    }
    if (n & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(at), part);
      part = _mm_movehl_ps(part, part);
      at += 2;
    }
    if (n & 1) _mm_store_ss(at, part);
  }
  // Every second of n floats.
  static V load_even(const float* at, int64_t n) {
    const V mixed = _mm256_shuffle_ps(load_first(at, n), load_first(at + L, n - L), _MM_SHUFFLE(2, 0, 2, 0));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), _MM_SHUFFLE(3, 1, 2, 0)));
  }
  // The first n floats of a0 b0 a1 b1 ...
  static void store_woven(float* at, int64_t n, V a, V b) {
    const V low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    store_first(at, n, _mm256_permute2f128_ps(low, high, 0x20));
    store_first(at + L, n - L, _mm256_permute2f128_ps(low, high, 0x31));
  }
  // Keeps the compiler from loading the value anew for each multiplication.
  static void pin(V& value) { asm("" : "+x"(value)); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
};

template <class S>
void add_single_vectors(Kernels& k) {
  k.lanes = S::L;
  add_conv<S, 1, 1, 2, 4, 6, 8>(k);
  add_grad<S, 1, 1, 2, 4, 8>(k);
  add_lines<S, 2, 4>(k);
  add_lines<S, 4, 2>(k);
}

}  // namespace

const Kernels* kernels_avx2() {
  static const Kernels by_column = [] {
    Kernels k{};
    add_single_vectors<ByColumn<Avx2>>(k);
    return k;
  }();
  static const Kernels kernels = [] {
    Kernels k{};
    add_rows<Avx2>(k);
    add_single_vectors<Avx2>(k);
    add_conv<Avx2, 2, 1, 2, 4>(k);
    add_conv<Avx2, 4, 1, 2>(k);
    add_grad<Avx2, 2, 1, 2, 4>(k);
    add_grad<Avx2, 4, 1>(k);
    k.by_column = &by_column;
    return k;
  }();
  return &kernels;
}

}  // namespace atrous
#else
const atrous::Kernels* atrous::kernels_avx2() { return nullptr; }
#endif
