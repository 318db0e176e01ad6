// How a plan is worked off: the outputs cut into tiles, and what each tile reads laid out in a scratch.
#pragma once

#include <vector>

#include "plan.h"

namespace atrous {

// No thread holds more scratch than this, whatever the image or the taps.
constexpr int64_t kScratchBytes = 2 << 20;

// Outputs of one row phase: lines [line, line_end), chain steps [step, step_end), columns [column, column_end).
struct Tile {
  int64_t plan, line, line_end, step, step_end, column, column_end;
};

// Where a window lies: row (l, j) of a tile at offset + ((l - line) * rows + j - step - window.first) * pitch, its
// first column being `left` from the tile's.
struct Place {
  int64_t offset, rows, left, columns;
};

// Windows that fit into the scratch together, and their groups in the order of work: by column phase, then height.
struct Batch {
  size_t first_window, last_window;
  int64_t elements;
  std::vector<size_t> groups;
};

struct Layout {
  int64_t row_phase, pitch;
  bool in_place;              // blocks read the input itself: no scratch, no places
  std::vector<Place> places;  // per window of the plan
  std::vector<Batch> batches;
};

// The plans of one output channel, all row phases, and their tiles.
struct Schedule {
  std::vector<Plan> plans;
  std::vector<Layout> layouts;
  std::vector<Tile> tiles;
};

// `parts`: the least number of tiles wanted, so that few planes still feed many threads.
Schedule make_schedule(const Problem& problem, int64_t o, const Vectors& vectors, int64_t parts);

}  // namespace atrous
