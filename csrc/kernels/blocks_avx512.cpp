// Compiled with AVX-512 on x86-64; elsewhere it holds only the null answer.
#include "block_templates.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)
#include <immintrin.h>

namespace atrous {
namespace {

#if defined(ATROUS_ASAN)
[[gnu::noinline]] __m512 load_one_by_one(const float* at, unsigned lanes) {
  __m512 value = _mm512_setzero_ps();
  for (int i = 0; i < 16; ++i) {
    if (lanes >> i & 1) value[i] = at[i];
  }
  return value;
}

[[gnu::noinline]] void store_one_by_one(float* at, unsigned lanes, __m512 value) {
  for (int i = 0; i < 16; ++i) {
    if (lanes >> i & 1) at[i] = value[i];
  }
}
#endif

struct Avx512 {
  using V = __m512;
  static constexpr int L = 16;
  static constexpr int kSlot = L;
  static constexpr int kStep = 1;
  static constexpr bool kByColumn = false;
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
#if defined(ATROUS_ASAN)
    return load_one_by_one(at, lanes);
#else
    return _mm512_maskz_loadu_ps(lanes, at);
#endif
  }
  static void store(float* at, V value) { _mm512_storeu_ps(at, value); }
  using First = Mask;
  static First first(int64_t n) { return between(0, n); }
  static V load_first(const float* at, First lanes) { return load(at, lanes); }
  static void store_first(float* at, First lanes, V value) {
#if defined(ATROUS_ASAN)
    store_one_by_one(at, lanes, value);
#else
    _mm512_mask_storeu_ps(at, lanes, value);
#endif
  }
  // Every second of n floats.
  static V load_even(const float* at, int64_t n) {
    const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(load_first(at, first(n)), index, load_first(at + L, first(n - L)));
  }
  // The first n floats of a0 b0 a1 b1 ...
  static void store_woven(float* at, int64_t n, V a, V b) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    store_first(at, first(n), _mm512_permutex2var_ps(a, low, b));
    store_first(at + L, first(n - L), _mm512_permutex2var_ps(a, high, b));
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
  static constexpr int kStep = 1;
  static constexpr bool kByColumn = false;
  using Mask = __mmask8;
  static Mask all() { return 0xff; }
  static Mask between(int64_t begin, int64_t end) {
    return static_cast<Mask>(Avx512::between(begin, end > L ? L : end));
  }
  static V set(float value) { return _mm256_set1_ps(value); }
  static V load(const float* at) { return _mm256_loadu_ps(at); }
  static V load(const float* at, Mask lanes) {
#if defined(ATROUS_ASAN)
    return _mm512_castps512_ps256(Avx512::load(at, static_cast<Avx512::Mask>(lanes)));
#else
    return _mm256_maskz_loadu_ps(lanes, at);
#endif
  }
  static void store(float* at, V value) { _mm256_storeu_ps(at, value); }
  using First = Mask;
  static First first(int64_t n) { return between(0, n); }
  static V load_first(const float* at, First lanes) { return load(at, lanes); }
  static void store_first(float* at, First lanes, V value) {
#if defined(ATROUS_ASAN)
    Avx512::store_first(at, static_cast<Avx512::Mask>(lanes), _mm512_castps256_ps512(value));
#else
    _mm256_mask_storeu_ps(at, lanes, value);
#endif
  }
  static void store_woven(float* at, int64_t n, V a, V b) {
    Avx512::store_first(at, Avx512::first(n),
                        __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
  }
  static void pin(V& value) { asm("" : "+v"(value)); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
};

// The same with sources of which every second float counts, read where they lie. The one after the last may lie
// outside.
struct Avx512Second : Avx512 {
  static constexpr int kStep = 2;
  using Mask = uint32_t;
  static Mask all() { return 0x7fffffff; }
  static Mask between(int64_t begin, int64_t end) {
    const uint64_t low = begin <= 0 ? 0 : begin >= L ? ~0ull : (1ull << 2 * begin) - 1;
    const uint64_t high = end >= L ? 0x7fffffff : end <= 0 ? 0 : (1ull << (2 * end - 1)) - 1;
    return static_cast<Mask>(high & ~low);
  }
  using Avx512::load;
  static V load(const float* at, Mask floats) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(load(at, static_cast<__mmask16>(floats)), even,
                                  load(at + L, static_cast<__mmask16>(floats >> L)));
  }
};

struct Avx512HalfSecond : Avx512Half {
  static constexpr int kStep = 2;
  using Mask = __mmask16;
  static Mask all() { return 0x7fff; }
  static Mask between(int64_t begin, int64_t end) {
    return static_cast<Mask>(Avx512Second::between(begin, end > L ? L : end));
  }
  using Avx512Half::load;
  static V load(const float* at, Mask floats) {
    const Avx512::V both = Avx512::load(at, floats);
    return __builtin_shufflevector(both, both, 0, 2, 4, 6, 8, 10, 12, 14);
  }
};

template <class S>
void add_single_vectors(Kernels& k) {
  k.lanes = S::L;
  k.weave = weave_rows<S>;
  add_conv<S, 1, 1, 2, 4, 6, 8, 12, 14>(k);
  add_grad<S, 1, 1, 2, 4, 8, 14>(k);
  add_lines<S, 2, 8>(k);
  add_lines<S, 4, 4>(k);
  add_lines<S, 8, 2>(k);
}

template <class S, class HalfS>
Kernels single_vectors() {
  static const Kernels half = [] {
    Kernels k{};
    add_single_vectors<HalfS>(k);
    return k;
  }();
  Kernels k{};
  add_single_vectors<S>(k);
  k.half = &half;
  return k;
}

}  // namespace

const Kernels* kernels_avx512() {
  static const Kernels second = single_vectors<Avx512Second, Avx512HalfSecond>();
  static const Kernels by_column = single_vectors<ByColumn<Avx512>, ByColumn<Avx512Half>>();
  static const Kernels kernels = [] {
    Kernels k = single_vectors<Avx512, Avx512Half>();
    add_conv<Avx512, 2, 1, 2, 4, 6, 8, 12>(k);
    add_conv<Avx512, 4, 1, 2, 4, 6>(k);
    add_conv<Avx512, 8, 1>(k);
    add_grad<Avx512, 2, 1, 2, 4, 8>(k);
    add_grad<Avx512, 4, 1, 2, 4>(k);
    add_grad<Avx512, 8, 1>(k);
    add_rows<Avx512>(k);
    k.masks = true;
    k.second = &second;
    k.by_column = &by_column;
    return k;
  }();
  return &kernels;
}

}  // namespace atrous
#else
const atrous::Kernels* atrous::kernels_avx512() { return nullptr; }
#endif
