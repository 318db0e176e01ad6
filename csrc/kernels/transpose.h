// From channels last in memory to contiguous planes, and back.
#pragma once

#include <cstdint>

#include "taps.h"

namespace atrous {

// Writes a stack of matrices (B, rows, columns) as (B, columns, rows); elements of 2, 4 or 8 bytes.
void transpose(int64_t batch, int64_t rows, int64_t columns, int64_t element_size, const void* from, void* to,
               const Parallel& parallel);

}  // namespace atrous
