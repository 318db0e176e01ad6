// Scattered taps on planes of an image: the taps of an output channel fall into the cells of a small grid, and those in
// one cell are one.
#pragma once

#include "blocks.h"
#include "taps.h"

namespace atrous {

// What one call has in common: the grid that holds the taps of every pair, and how planes lie in the scratch.
//
// Samples lie side by side, column by column, where planes are narrower than the registers: a tap then moves by as many
// elements as there are samples for each column. Zeros lie all round.
struct Grid {
  bool fits = false;        // else the call is not one for cells
  int64_t top, left;        // the least offset of rows and columns
  int64_t rows, columns;    // of the grid
  int64_t samples, groups;  // side by side; and how many such groups make the batch
  int64_t room;             // rows of a block
  int64_t band, bands;      // rows of the output per part of a plane; and how many parts
  int64_t above, before;    // zeros over the first row, and before the first column, in rows and elements
  int64_t pitch, plane;     // elements from row to row, and of a channel, in the scratch
  int64_t out_pitch;        // elements from row to row of the outputs
};

// The grid of a call whose pairs have their own offsets, for the forward or for the gradient of the weight.
template <class T>
Grid make_grid(const Problem& problem, const Kernels<T>& kernels, bool for_grad);

// As the operations without `_by_cells`.
template <class T>
void tap_conv_by_cells(const Problem& problem, const Grid& grid, const T* input, const T* weight, const T* bias,
                       T* output, const Kernels<T>& kernels, const Parallel& parallel);
template <class T>
void tap_conv_weight_by_cells(const Problem& problem, const Grid& grid, const T* grad, const T* input, T* weight_grad,
                              const Kernels<T>& kernels, const Parallel& parallel);

}  // namespace atrous
