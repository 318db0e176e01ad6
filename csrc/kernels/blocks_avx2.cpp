// Compiled with AVX2 and FMA on x86-64; elsewhere it holds only the null answer.
#include "block_templates.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace atrous {
namespace {

struct Avx2 {
  using V = __m256;
  static constexpr int L = 8;
  static __m256i mask(int64_t n) {
    const int limit = n >= L ? L : static_cast<int>(n);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static constexpr int kSlot = L;
  static constexpr bool kMasks = false;
  struct Mask {};
  static Mask all() { return {}; }
  static Mask between(int64_t, int64_t) { return {}; }
  static V set(float value) { return _mm256_set1_ps(value); }
  static V load(const float* at) { return _mm256_loadu_ps(at); }
  static V load(const float* at, Mask) { return load(at); }
  static V load_first(const float* at, int64_t n) {
    return n >= L ? load(at) : n <= 0 ? set(0) : _mm256_maskload_ps(at, mask(n));
  }
  static void store(float* at, V value) { _mm256_storeu_ps(at, value); }
  static void store(float* at, int64_t n, V value) {
    if (n >= L) return store(at, value);
    if (n > 0) _mm256_maskstore_ps(at, mask(n), value);
  }
  // Every second of n floats.
  static V load_even(const float* at, int64_t n) {
    const V mixed = _mm256_shuffle_ps(load_first(at, n), load_first(at + L, n - L), _MM_SHUFFLE(2, 0, 2, 0));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), _MM_SHUFFLE(3, 1, 2, 0)));
  }
  // The first n floats of a0 b0 a1 b1 ...
  static void store_woven(float* at, int64_t n, V a, V b) {
    const V low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    store(at, n, _mm256_permute2f128_ps(low, high, 0x20));
    store(at + L, n - L, _mm256_permute2f128_ps(low, high, 0x31));
  }
  // Keeps the compiler from loading the value anew for each multiplication.
  static void pin(V& value) { asm("" : "+x"(value)); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace

const Kernels* kernels_avx2() {
  static const Kernels kernels = [] {
    Kernels k = common<Avx2>();
    add_conv<Avx2, 1, 1, 2, 4, 6, 8>(k);
    add_conv<Avx2, 2, 1, 2, 4>(k);
    add_conv<Avx2, 4, 1, 2>(k);
    add_grad<Avx2, 1, 1, 2, 4, 8>(k);
    add_grad<Avx2, 2, 1, 2, 4>(k);
    add_grad<Avx2, 4, 1>(k);
    return k;
  }();
  return &kernels;
}

}  // namespace atrous
#else
const atrous::Kernels* atrous::kernels_avx2() { return nullptr; }
#endif
