// The element types: what lies in memory, and what it is computed in.
#pragma once

#include <cstdint>

namespace atrous {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// What T is computed in: sums of 16-bit floats are float32.
template <class T>
struct Computed {
  using Type = T;
};
template <>
struct Computed<BFloat16> {
  using Type = float;
};
template <>
struct Computed<Float16> {
  using Type = float;
};
template <class T>
using Wide = typename Computed<T>::Type;

// Never a function of their own, which might be one compiled for a processor that is not there.
#define ATROUS_INLINE inline __attribute__((always_inline))

ATROUS_INLINE float widen(BFloat16 value) { return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16); }
ATROUS_INLINE float widen(Float16 value) {
  // The exponents of float32 go further: powers of two put it right, and the subnormal numbers with it.
  const auto sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t rest = value.bits & 0x7fff;
  if (rest < 0x400)
    return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, static_cast<float>(rest) * 0x1p-24f));
  return __builtin_bit_cast(float, sign | ((rest << 13) + ((rest < 0x7c00 ? 112u : 224u) << 23)));
}
ATROUS_INLINE float widen(float value) { return value; }
ATROUS_INLINE double widen(double value) { return value; }

// Rounded to the nearest, ties to even.
template <class T>
ATROUS_INLINE T narrow(Wide<T> value) {
  return value;
}
template <>
ATROUS_INLINE BFloat16 narrow<BFloat16>(float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value);
  if (value != value) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
ATROUS_INLINE Float16 narrow<Float16>(float value) {
  const auto sign = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, value) >> 16 & 0x8000);
  const float size = __builtin_fabsf(value);
  const auto bits = __builtin_bit_cast(uint32_t, size);
  if (value != value) return {static_cast<uint16_t>(sign | 0x7e00)};
  if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  // Below the normal numbers the sum with 1/2 has the wanted digits as its last ones, rounded.
  if (size < 0x1p-14f) return {static_cast<uint16_t>(sign | (__builtin_bit_cast(uint32_t, size + 0.5f) - 0x3f000000u))};
  return {static_cast<uint16_t>(sign | (((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112u << 10)))};
}

// Applies a macro to every element type.
#define ATROUS_FOR_ELEMENTS(use) use(float) use(double) use(BFloat16) use(Float16)

}  // namespace atrous
