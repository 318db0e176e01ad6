// Compiled with AVX-512 on x86-64; elsewhere it holds only the null answer.
#include "block_templates.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)
#include <immintrin.h>

namespace atrous {
namespace {

struct Avx512 {
  using V = __m512;
  static constexpr int L = 16;
  static constexpr int kSlot = L;
  static constexpr bool kMasks = true;
  using Mask = __mmask16;
  static Mask all() { return 0xffff; }
  // Lanes in [begin, end).
  static Mask between(int64_t begin, int64_t end) {
    const auto low = begin <= 0 ? 0u : begin >= L ? 0xffffu : (1u << begin) - 1;
    const auto high = end >= L ? 0xffffu : end <= 0 ? 0u : (1u << end) - 1;
    return static_cast<Mask>(high & ~low);
  }
  static V set(float value) { return _mm512_set1_ps(value); }
  static V load(const float* at) { return _mm512_loadu_ps(at); }
  static V load(const float* at, Mask lanes) {
#if defined(__SANITIZE_ADDRESS__)
    // The sanitizer does not look into masked loads.
    V value = set(0.0f);
    for (int i = 0; i < L; ++i) {
      if (lanes >> i & 1) value[i] = at[i];
    }
    return value;
#else
    return _mm512_maskz_loadu_ps(lanes, at);
#endif
  }
  static V load_first(const float* at, int64_t n) { return load(at, between(0, n)); }
  static void store(float* at, V value) { _mm512_storeu_ps(at, value); }
  static void store(float* at, int64_t n, V value) { _mm512_mask_storeu_ps(at, between(0, n), value); }
  // Every second of n floats.
  static V load_even(const float* at, int64_t n) {
    const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(load_first(at, n), index, load_first(at + L, n - L));
  }
  // The first n floats of a0 b0 a1 b1 ...
  static void store_woven(float* at, int64_t n, V a, V b) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    store(at, n, _mm512_permutex2var_ps(a, low, b));
    store(at + L, n - L, _mm512_permutex2var_ps(a, high, b));
  }
  // Keeps the compiler from loading the value anew for each multiplication.
  static void pin(V& value) { asm("" : "+v"(value)); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
};

// Half a vector, for the last few columns: it costs half as much.
struct Avx512Half {
  using V = __m256;
  static constexpr int L = 8;
  static constexpr int kSlot = Avx512::L;
  static constexpr bool kMasks = true;
  using Mask = __mmask8;
  static Mask all() { return 0xff; }
  static Mask between(int64_t begin, int64_t end) {
    return static_cast<Mask>(Avx512::between(begin, end > L ? L : end));
  }
  static V set(float value) { return _mm256_set1_ps(value); }
  static V load(const float* at) { return _mm256_loadu_ps(at); }
  static V load(const float* at, Mask lanes) {
#if defined(__SANITIZE_ADDRESS__)
    return _mm512_castps512_ps256(Avx512::load(at, static_cast<Avx512::Mask>(lanes)));
#else
    return _mm256_maskz_loadu_ps(lanes, at);
#endif
  }
  static V load_first(const float* at, int64_t n) { return load(at, between(0, n)); }
  static void store(float* at, V value) { _mm256_storeu_ps(at, value); }
  static void store(float* at, int64_t n, V value) { _mm256_mask_storeu_ps(at, between(0, n), value); }
  static void pin(V& value) { asm("" : "+v"(value)); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace

const Kernels* kernels_avx512() {
  static const Kernels half = [] {
    Kernels k{};
    k.lanes = Avx512Half::L;
    add_conv<Avx512Half, 1, 1, 2, 4, 6, 8, 12, 14>(k);
    add_grad<Avx512Half, 1, 1, 2, 4, 8, 14>(k);
    add_lines<Avx512Half, 1, 2, 3, 4, 5, 7>(k);
    return k;
  }();
  static const Kernels kernels = [] {
    Kernels k = common<Avx512>();
    add_conv<Avx512, 1, 1, 2, 4, 6, 8, 12, 14>(k);
    add_conv<Avx512, 2, 1, 2, 4, 6, 8, 12>(k);
    add_conv<Avx512, 4, 1, 2, 4, 6>(k);
    add_conv<Avx512, 8, 1>(k);
    add_grad<Avx512, 1, 1, 2, 4, 8, 14>(k);
    add_grad<Avx512, 2, 1, 2, 4, 8>(k);
    add_grad<Avx512, 4, 1, 2, 4>(k);
    add_grad<Avx512, 8, 1>(k);
    add_lines<Avx512, 1, 2, 3, 4, 5, 7>(k);
    k.half = &half;
    return k;
  }();
  return &kernels;
}

}  // namespace atrous
#else
const atrous::Kernels* atrous::kernels_avx512() { return nullptr; }
#endif
