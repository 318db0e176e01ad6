// Compiled with AVX-512 (F, VL, BW) and F16C on x86-64; elsewhere it holds only the null answer.
#include "block_templates.h"

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__F16C__)
#include <immintrin.h>

namespace atrous {
namespace {

// N of what is computed in.
template <class W, int N>
struct Lanes;

template <>
struct Lanes<float, 16> {
  using V = __m512;
  static V set(float value) { return _mm512_set1_ps(value); }
  static V load(const float* at) { return _mm512_loadu_ps(at); }
  static void store(float* at, V value) { _mm512_storeu_ps(at, value); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
};

template <>
struct Lanes<float, 8> {
  using V = __m256;
  static V set(float value) { return _mm256_set1_ps(value); }
  static V load(const float* at) { return _mm256_loadu_ps(at); }
  static void store(float* at, V value) { _mm256_storeu_ps(at, value); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
};

template <>
struct Lanes<double, 8> {
  using V = __m512d;
  static V set(double value) { return _mm512_set1_pd(value); }
  static V load(const double* at) { return _mm512_loadu_pd(at); }
  static void store(double* at, V value) { _mm512_storeu_pd(at, value); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
};

template <>
struct Lanes<double, 4> {
  using V = __m256d;
  static V set(double value) { return _mm256_set1_pd(value); }
  static V load(const double* at) { return _mm256_loadu_pd(at); }
  static void store(double* at, V value) { _mm256_storeu_pd(at, value); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
};

// Some of N elements in memory, as vectors: those whose bit is set.
template <class T, int N>
struct Masked;

template <>
struct Masked<float, 16> : Lanes<float, 16> {
  static V load_some(const float* at, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, at); }
  static void store_some(float* at, __mmask16 lanes, V value) { _mm512_mask_storeu_ps(at, lanes, value); }
};

template <>
struct Masked<float, 8> : Lanes<float, 8> {
  static V load_some(const float* at, __mmask8 lanes) { return _mm256_maskz_loadu_ps(lanes, at); }
  static void store_some(float* at, __mmask8 lanes, V value) { _mm256_mask_storeu_ps(at, lanes, value); }
};

template <>
struct Masked<double, 8> : Lanes<double, 8> {
  static V load_some(const double* at, __mmask8 lanes) { return _mm512_maskz_loadu_pd(lanes, at); }
  static void store_some(double* at, __mmask8 lanes, V value) { _mm512_mask_storeu_pd(at, lanes, value); }
};

template <>
struct Masked<double, 4> : Lanes<double, 4> {
  static V load_some(const double* at, __mmask8 lanes) { return _mm256_maskz_loadu_pd(lanes, at); }
  static void store_some(double* at, __mmask8 lanes, V value) { _mm256_mask_storeu_pd(at, lanes, value); }
};

inline __m512 widened(__m256i bits, BFloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline __m256 widened(__m128i bits, BFloat16) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline __m512 widened(__m256i bits, Float16) { return _mm512_cvtph_ps(bits); }
inline __m256 widened(__m128i bits, Float16) { return _mm256_cvtph_ps(bits); }

// To the nearest, ties to even, as `narrow`.
inline __m256i narrowed(__m512 value, BFloat16) {
  const __m512i bits = _mm512_castps_si512(value), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i near = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(near, 16), nan, _mm512_set1_epi32(0x7fc0)));
}
inline __m128i narrowed(__m256 value, BFloat16) {
  return _mm256_castsi256_si128(narrowed(_mm512_castps256_ps512(value), BFloat16{}));
}
inline __m256i narrowed(__m512 value, Float16) { return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT); }
inline __m128i narrowed(__m256 value, Float16) { return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT); }

template <class T>
struct Shorts16 : Lanes<float, 16> {
  static V load_some(const T* at, __mmask16 lanes) { return widened(_mm256_maskz_loadu_epi16(lanes, at), T{}); }
  static void store_some(T* at, __mmask16 lanes, V value) { _mm256_mask_storeu_epi16(at, lanes, narrowed(value, T{})); }
};

template <class T>
struct Shorts8 : Lanes<float, 8> {
  static V load_some(const T* at, __mmask8 lanes) { return widened(_mm_maskz_loadu_epi16(lanes, at), T{}); }
  static void store_some(T* at, __mmask8 lanes, V value) { _mm_mask_storeu_epi16(at, lanes, narrowed(value, T{})); }
};

template <>
struct Masked<BFloat16, 16> : Shorts16<BFloat16> {};
template <>
struct Masked<BFloat16, 8> : Shorts8<BFloat16> {};
template <>
struct Masked<Float16, 16> : Shorts16<Float16> {};
template <>
struct Masked<Float16, 8> : Shorts8<Float16> {};

// N elements; where N is half of what the registers hold, the last few columns cost half as much.
template <class Element, int N>
struct Avx512 : Masked<Element, N> {
  using T = Element;
  using Some = Masked<T, N>;
  using V = typename Some::V;
  static constexpr int L = N;
  static constexpr int kSlot = 64 / sizeof(Wide<T>);
  static constexpr int kStep = 1;
  static constexpr bool kByColumn = false;
  static constexpr unsigned kAll = (1u << N) - 1;
  struct Mask {
    unsigned lanes;
  };
  static Mask all() { return {kAll}; }
  // Lanes in [begin, end).
  static Mask between(int64_t begin, int64_t end) {
    const unsigned low = begin <= 0 ? 0u : begin >= N ? kAll : (1u << begin) - 1;
    const unsigned high = end >= N ? kAll : end <= 0 ? 0u : (1u << end) - 1;
    return {high & ~low};
  }
  using Some::load;
  static V load(const T* at, Mask mask) {
#if defined(ATROUS_ASAN)
    T part[N] = {};
    for (int i = 0; i < N; ++i) {
      if (mask.lanes >> i & 1) part[i] = at[i];
    }
    at = part;
#endif
    return Some::load_some(at, mask.lanes);
  }
  using First = Mask;
  static First first(int64_t n) { return between(0, n); }
  static V load_first(const T* at, First lanes) { return load(at, lanes); }
  static void store_first(T* at, First mask, V value) {
#if defined(ATROUS_ASAN)
    T part[N];
    Some::store_some(part, kAll, value);
    for (int i = 0; i < N; ++i) {
      if (mask.lanes >> i & 1) at[i] = part[i];
    }
#else
    Some::store_some(at, mask.lanes, value);
#endif
  }
  static void copy(const T* from, T* to, First n) { store_first(to, n, load_first(from, n)); }
  // Keeps the compiler from loading the value anew for each multiplication.
  static void pin(V& value) { asm("" : "+v"(value)); }
};

template <class T>
constexpr int kLanes = 64 / sizeof(Wide<T>);

template <class T>
struct Full : Avx512<T, kLanes<T>> {};

template <class T>
struct Half : Avx512<T, kLanes<T> / 2> {};

template <>
struct Full<float> : Avx512<float, 16> {
  // Every second float of those whose bit is set.
  static V load_even(const float* at, uint32_t floats) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(load(at, Mask{floats & kAll}), even, load(at + L, Mask{floats >> L}));
  }
  // The first n of every second float; the row ends before its last pair is whole.
  static void copy_even(const float* from, float* to, int64_t n) {
    store_first(to, first(n), load_even(from, n < L ? (1u << (2 * n - 1)) - 1 : ~0u >> 1));
  }
  // The first n floats of a0 b0 a1 b1 ...
  static void store_woven(float* at, int64_t n, V a, V b) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    store_first(at, first(n), _mm512_permutex2var_ps(a, low, b));
    store_first(at + L, first(n - L), _mm512_permutex2var_ps(a, high, b));
  }
};

// Pairs of 16 bits are the halves of 32; these are the lower ones.
inline __m512 widened_lower(__m512i pairs, BFloat16) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline __m512 widened_lower(__m512i pairs, Float16) { return widened(_mm512_cvtepi32_epi16(pairs), Float16{}); }
inline __m256 widened_lower(__m256i pairs, BFloat16) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline __m256 widened_lower(__m256i pairs, Float16) { return widened(_mm256_cvtepi32_epi16(pairs), Float16{}); }

template <class T>
struct FullShorts : Avx512<T, 16> {
  using typename Avx512<T, 16>::V;
  static V load_even(const T* at, uint32_t elements) { return widened_lower(load_bits(at, elements), T{}); }
  static void copy_even(const T* from, T* to, int64_t n) {
    store_bits(to, n < 16 ? n : 16, _mm512_castsi256_si512(_mm512_cvtepi32_epi16(load_bits(from, some(2 * n - 1)))));
  }
  static void store_woven(T* at, int64_t n, V a, V b) {
    const __m512i low = _mm512_cvtepu16_epi32(narrowed(a, T{})), high = _mm512_cvtepu16_epi32(narrowed(b, T{}));
    store_bits(at, n, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }

 private:
  // The first n of 32.
  static __mmask32 some(int64_t n) { return n >= 32 ? ~0u : (1u << n) - 1; }
  static __m512i load_bits(const T* at, __mmask32 elements) {
#if defined(ATROUS_ASAN)
    T part[32] = {};
    for (int i = 0; i < 32; ++i) {
      if (elements >> i & 1) part[i] = at[i];
    }
    at = part;
#endif
    return _mm512_maskz_loadu_epi16(elements, at);
  }
  static void store_bits(T* at, int64_t n, __m512i bits) {
#if defined(ATROUS_ASAN)
    T part[32];
    _mm512_storeu_si512(part, bits);
    for (int64_t i = 0; i < n && i < 32; ++i) at[i] = part[i];
#else
    _mm512_mask_storeu_epi16(at, some(n), bits);
#endif
  }
};

template <>
struct Full<BFloat16> : FullShorts<BFloat16> {};
template <>
struct Full<Float16> : FullShorts<Float16> {};

template <class T>
struct HalfShorts : Avx512<T, 8> {
  using typename Avx512<T, 8>::V;
  static V load_even(const T* at, uint32_t elements) {
#if defined(ATROUS_ASAN)
    T part[16] = {};
    for (int i = 0; i < 16; ++i) {
      if (elements >> i & 1) part[i] = at[i];
    }
    at = part;
#endif
    return widened_lower(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(elements), at), T{});
  }
  static void store_woven(T* at, int64_t n, V a, V b) {
    Full<T>::store_woven(at, n < 16 ? n : 16, _mm512_castps256_ps512(a), _mm512_castps256_ps512(b));
  }
};

template <>
struct Half<BFloat16> : HalfShorts<BFloat16> {};
template <>
struct Half<Float16> : HalfShorts<Float16> {};

template <>
struct Full<double> : Avx512<double, 8> {
  static void copy_even(const double* from, double* to, int64_t n) {
    const V low = load_first(from, first(2 * n - 1)), high = load_first(from + L, first(2 * n - 1 - L));
    store_first(to, first(n), __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14));
  }
  static void store_woven(double* at, int64_t n, V a, V b) {
    store_first(at, first(n), __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11));
    store_first(at + L, first(n - L), __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15));
  }
};

template <>
struct Half<float> : Avx512<float, 8> {
  static V load_even(const float* at, uint32_t floats) {
    const __m512 both = Full<float>::load(at, Full<float>::Mask{floats});
    return __builtin_shufflevector(both, both, 0, 2, 4, 6, 8, 10, 12, 14);
  }
  static void store_woven(float* at, int64_t n, V a, V b) {
    Full<float>::store_first(at, Full<float>::first(n),
                             __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
  }
};

// The same with sources of which every second element counts, read where they lie. The one after the last may lie
// outside.
template <class S>
struct Second : S {
  static constexpr int kStep = 2;
  struct Mask {
    uint32_t elements;
  };
  static Mask all() { return between(0, S::L); }
  static Mask between(int64_t begin, int64_t end) {
    const uint64_t low = begin <= 0 ? 0 : begin >= S::L ? ~0ull : (1ull << 2 * begin) - 1;
    const uint64_t high = end <= 0 ? 0 : (1ull << (2 * (end < S::L ? end : S::L) - 1)) - 1;
    return {static_cast<uint32_t>(high & ~low)};
  }
  using S::load;
  static typename S::V load(const typename S::T* at, Mask mask) { return S::load_even(at, mask.elements); }
};

template <class S>
void add_single_vectors(Kernels<typename S::T>& k) {
  k.lanes = S::L;
  k.weave = weave_rows<S>;
  add_conv<S, 1, 1, 2, 4, 6, 8, 12, 14>(k);
  add_grad<S, 1, 1, 2, 4, 8, 14>(k);
  add_lines<S, 2, 8>(k);
  add_lines<S, 4, 4>(k);
  add_lines<S, 8, 2>(k);
}

template <class S, class HalfS, class T = typename S::T>
Kernels<T> single_vectors() {
  static const Kernels<T> half = [] {
    Kernels<T> k{};
    add_single_vectors<HalfS>(k);
    return k;
  }();
  Kernels<T> k{};
  add_single_vectors<S>(k);
  k.half = &half;
  return k;
}

}  // namespace

template <class T>
const Kernels<T>* kernels_avx512() {
  using S = Full<T>;
  static const Kernels<T> by_column = single_vectors<ByColumn<S>, ByColumn<Half<T>>>();
  static const Kernels<T> kernels = [] {
    Kernels<T> k = single_vectors<S, Half<T>>();
    add_conv<S, 2, 1, 2, 4, 6, 8, 12>(k);
    add_conv<S, 4, 1, 2, 4, 6>(k);
    add_conv<S, 8, 1>(k);
    add_grad<S, 2, 1, 2, 4, 8>(k);
    add_grad<S, 4, 1, 2, 4>(k);
    add_grad<S, 8, 1>(k);
    add_rows<S>(k, "avx512");
    add_conv_cells<S, 1, 4, 5, 6, 7, 8, 10, 12, 14>(k);
    add_conv_cells<S, 2, 4, 5, 6, 7, 8, 10, 12, 14>(k);
    add_grad_cells<S, 1, 4, 5, 6, 7, 8, 10, 12>(k);
    add_grad_cells<S, 2, 4, 5, 6, 7, 8, 10, 12>(k);
    k.masks = true;
    k.by_column = &by_column;
    if constexpr (requires { S::load_even(nullptr, 0); }) {
      static const Kernels<T> second = single_vectors<Second<S>, Second<Half<T>>>();
      k.second_columns = &second;
      k.second = true;
    }
    return k;
  }();
  return &kernels;
}

template const Kernels<ATROUS_ELEMENT>* kernels_avx512();

}  // namespace atrous
#else
namespace atrous {
template <>
const Kernels<ATROUS_ELEMENT>* kernels_avx512() {
  return nullptr;
}
}  // namespace atrous
#endif
