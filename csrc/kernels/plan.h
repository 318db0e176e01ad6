// What one output channel reads, as integers: taps sorted into runs, groups and windows.
//
// Any stride and upsampling come down to plain correlations of planes. Along an axis let g = gcd(stride, upsample),
// s = stride / g, u = upsample / g. The outputs of one phase, p = u q + r, read pixels s q + b, so they form a plane in
// q, and pixels s j + f, for one f, form a plane in j that the tap reads at j = q + d. Rows are dealt once more: row q
// is chain step i of line a, q = a + step * i, so that the taps of a dilated kernel lie one below the other.
#pragma once

#include <vector>

#include "blocks.h"
#include "taps.h"

namespace atrous {

// Rounded up, for any a and a positive b.
inline int64_t ceil_div(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }
inline int64_t align_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// A part of the input planes that some taps read: rows dealt by (line, step), columns side by side.
struct Window {
  int64_t channel;   // of the group
  int64_t depth[2];  // the taps' offsets along the axes of depth
  int64_t row_phase, column_phase;
  int64_t height, width;  // of the whole phase plane
  int64_t row;            // remainder of the taps' row offset, in [0, step)
  int64_t first, last;    // chain steps read, relative to the output's own; both included
  int64_t left, right;    // columns read, relative to the output's own; both included
};

// Runs of one window and column phase, of `height` taps, whose first tap is at chain step `first`.
struct Group {
  int64_t window, first;
  int height;
  int64_t column_phase;  // of the output
  int64_t begin, end;    // in Plan::runs
};

struct Plan {
  int64_t step = 1;
  std::vector<Window> windows;
  std::vector<Group> groups;  // by window
  std::vector<Run> runs;
  std::vector<int64_t> taps;  // packed -> channel * T + tap
  int64_t reach = 0;          // the longest chain that a window adds to the outputs' own
};

// The two coprime factors of an axis and the sizes of its planes.
struct Phases {
  explicit Phases(const Axis& axis);
  int64_t gcd, stride, upsample, in, out;
  int64_t inputs(int64_t phase) const { return phase < in ? (in - phase - 1) / stride + 1 : 0; }
  int64_t outputs(int64_t phase) const { return phase < out ? (out - phase - 1) / upsample + 1 : 0; }
};

// The plan of output channel `o` (of all) for one row phase of the output and every column phase.
Plan make_plan(const Problem& problem, int64_t o, int64_t row_phase);

}  // namespace atrous
