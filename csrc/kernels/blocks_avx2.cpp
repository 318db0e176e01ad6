// Compiled with AVX2, FMA and F16C on x86-64; elsewhere it holds only the null answer.
#include "block_templates.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

namespace atrous {
namespace {

// Eight floats.
struct Floats {
  using V = __m256;
  static constexpr int L = 8;
  static V set(float value) { return _mm256_set1_ps(value); }
  static V load(const float* at) { return _mm256_loadu_ps(at); }
  static void store(float* at, V value) { _mm256_storeu_ps(at, value); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  // In pieces: a masked store takes some processors as long as ten whole ones.
  static void store_first(float* at, int64_t n, V value) {
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
};

template <class T>
struct Elements;

template <>
struct Elements<float> : Floats {
  static V load_first(const float* at, int64_t n) {
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
  // The first n of every second float; the row ends before its last pair is whole.
  static void copy_even(const float* from, float* to, int64_t n) {
    const V low = load_first(from, 2 * n - 1), high = load_first(from + L, 2 * n - 1 - L);
    const V mixed = _mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0));
    store_first(to, n, _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), _MM_SHUFFLE(3, 1, 2, 0))));
  }
  // The first n floats of a0 b0 a1 b1 ...
  static void store_woven(float* at, int64_t n, V a, V b) {
    const V low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    store_first(at, n, _mm256_permute2f128_ps(low, high, 0x20));
    store_first(at + L, n - L, _mm256_permute2f128_ps(low, high, 0x31));
  }
};

template <>
struct Elements<double> {
  using V = __m256d;
  static constexpr int L = 4;
  static V set(double value) { return _mm256_set1_pd(value); }
  static V load(const double* at) { return _mm256_loadu_pd(at); }
  static void store(double* at, V value) { _mm256_storeu_pd(at, value); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static V load_first(const double* at, int64_t n) {
    if (n >= L) return load(at);
    V value = set(0);
    for (int i = 0; i < n; ++i) value[i] = at[i];
    return value;
  }
  static void store_first(double* at, int64_t n, V value) {
    if (n >= L) return store(at, value);
    for (int i = 0; i < n; ++i) at[i] = value[i];
  }
};

// Whole vectors of 16-bit floats; parts of one take a buffer of their own.
template <class T>
struct Shorts : Floats {
  using Floats::load;
  using Floats::store;
  static V load(const T* at) { return widened(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)), T{}); }
  static void store(T* at, V value) { _mm_storeu_si128(reinterpret_cast<__m128i*>(at), narrowed(value, T{})); }
  static V load_first(const T* at, int64_t n) {
    if (n >= L) return load(at);
    T part[L] = {};
    for (int i = 0; i < n; ++i) part[i] = at[i];
    return load(part);
  }
  static void store_first(T* at, int64_t n, V value) {
    if (n >= L) return store(at, value);
    T part[L];
    store(part, value);
    for (int i = 0; i < n; ++i) at[i] = part[i];
  }

 private:
  static V widened(__m128i bits, BFloat16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static V widened(__m128i bits, Float16) { return _mm256_cvtph_ps(bits); }
  static __m128i narrowed(V value, BFloat16) {
    const __m256i bits = _mm256_castps_si256(value), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), ones(1));
    const __m256i near = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, ones(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i all = _mm256_blendv_epi8(near, ones(0x7fc0), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  }
  static __m128i narrowed(V value, Float16) { return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT); }
  static __m256i ones(int value) { return _mm256_set1_epi32(value); }
};

template <>
struct Elements<BFloat16> : Shorts<BFloat16> {};
template <>
struct Elements<Float16> : Shorts<Float16> {};

template <class Element>
struct Avx2 : Elements<Element> {
  using T = Element;
  using Base = Elements<T>;
  using V = typename Base::V;
  static constexpr int L = Base::L;
  static constexpr int kSlot = L;
  static constexpr int kStep = 1;
  static constexpr bool kByColumn = false;
  struct Mask {};
  static Mask all() { return {}; }
  static Mask between(int64_t, int64_t) { return {}; }
  using Base::load;
  static V load(const T* at, Mask) { return load(at); }
  using First = int64_t;
  static First first(int64_t n) { return n; }
  static void copy(const T* from, T* to, First n) {
    if (n >= L) {
      __builtin_memcpy(to, from, L * sizeof(T));
    } else {
      for (int i = 0; i < n; ++i) to[i] = from[i];
    }
  }
  // Keeps the compiler from loading the value anew for each multiplication.
  static void pin(V& value) { asm("" : "+x"(value)); }
};

template <class S>
void add_single_vectors(Kernels<typename S::T>& k) {
  k.lanes = S::L;
  add_conv<S, 1, 1, 2, 4, 6, 8>(k);
  add_grad<S, 1, 1, 2, 4, 8>(k);
  add_lines<S, 2, 4>(k);
  add_lines<S, 4, 2>(k);
}

}  // namespace

template <class T>
const Kernels<T>* kernels_avx2() {
  using S = Avx2<T>;
  static const Kernels<T> by_column = [] {
    Kernels<T> k{};
    add_single_vectors<ByColumn<S>>(k);
    return k;
  }();
  static const Kernels<T> kernels = [] {
    Kernels<T> k{};
    add_rows<S>(k, "avx2");
    add_conv_cells<S, 1, 4, 5, 6>(k);
    add_conv_cells<S, 2, 4, 5, 6>(k);
    add_grad_cells<S, 1, 4, 5>(k);
    add_grad_cells<S, 2, 4, 5>(k);
    add_single_vectors<S>(k);
    add_conv<S, 2, 1, 2, 4>(k);
    add_conv<S, 4, 1, 2>(k);
    add_grad<S, 2, 1, 2, 4>(k);
    add_grad<S, 4, 1>(k);
    k.by_column = &by_column;
    return k;
  }();
  return &kernels;
}

template const Kernels<ATROUS_ELEMENT>* kernels_avx2();

}  // namespace atrous
#else
namespace atrous {
template <>
const Kernels<ATROUS_ELEMENT>* kernels_avx2() {
  return nullptr;
}
}  // namespace atrous
#endif
