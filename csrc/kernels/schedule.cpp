#include "schedule.h"

#include <algorithm>
#include <tuple>

namespace atrous {
namespace {

// What a tile aims at: a part of the second-level cache. A tile of the least size below always fits the scratch.
constexpr int64_t kTargetBytes = 384 * 1024, kLeastSteps = 16, kMostColumns = 2048;
// In place a tile costs no scratch, but its plan grows with it, and with the groups of taps: 56 bytes a span.
constexpr int64_t kMostBytesInPlace = 1 << 20, kMostColumnsInPlace = 16 * 1024, kMostSpans = 16 * 1024;

struct Cut {
  int64_t lines, steps, columns;
};

// Columns that blocks of at most kMaxVectors vectors touch: beside the image they skip what lies beyond one block.
void place_columns(const Plan& plan, const Vectors& vectors, int64_t columns, bool whole, Layout& layout) {
  const int64_t line = kLineBytes / vectors.bytes, padded = align_up(columns, vectors.lanes);
  const int64_t block = std::min<int64_t>(padded, kMaxVectors * vectors.lanes);
  layout.pitch = line;
  for (const Window& window : plan.windows) {
    int64_t left = window.left, right = padded + window.right;
    if (whole) {
      left = std::max(left, -block);
      right = std::min(right, window.width + block);
    }
    left = -align_up(std::max<int64_t>(-left, 0), line) + (left > 0 ? left / line * line : 0);
    layout.places.push_back({0, 0, left, right - left});
    layout.pitch = std::max(layout.pitch, align_up(right - left, line));
  }
  // Rows at a power of two would share the sets of the first-level cache.
  if (layout.pitch * vectors.bytes % 1024 == 0) layout.pitch += line;
}

// Whether blocks may read the input where it lies: rows must not be so far apart that they share the sets of the
// first-level cache, and the planes of a volume share them with one another. Every second column costs two loads
// instead of one, so only where copies would cost more: of several phases, for one output, on narrow planes.
bool reads_in_place(const Problem& problem, const Plan& plan, const Phases& columns, const Vectors& vectors,
                    int64_t apart) {
  if (problem.channels_last) return vectors.masks;  // each vector is read once or twice
  const bool image = problem.axis[1].in == 1 && problem.axis[1].out == 1;
  if (apart * vectors.bytes % (image ? 2048 : 1024) == 0) return false;
  if (columns.stride == 2) {
    return vectors.second && (problem.per_pair || problem.out_channels == 1) &&
           static_cast<int64_t>(plan.windows.size()) > problem.in_channels && columns.outputs(0) <= vectors.lanes;
  }
  return vectors.masks && columns.stride == 1;
}

int64_t tile_elements(const Plan& plan, const Layout& layout, int64_t lines, int64_t steps) {
  if (layout.in_place) return 0;
  int64_t rows = 0;
  for (const Window& window : plan.windows) rows += steps + window.last - window.first;
  return lines * rows * layout.pitch;
}

// Strips of whole lines are rows side by side in memory, but read their neighbours' margins again; lines by themselves
// read nothing twice. Strips, then, while the margins are small beside them.
Cut choose_cut(const Plan& plan, const Layout& layout, int bytes, int64_t height, int64_t columns, int64_t parts) {
  const int64_t lines = std::min(plan.step, height), steps = ceil_div(height, plan.step);
  Cut cut{lines, steps, columns};
  const auto scratch = [&] { return tile_elements(plan, layout, cut.lines, cut.steps) * bytes; };
  const auto outputs = [&] { return cut.lines * cut.steps * cut.columns * bytes; };
  const auto large_plan = [&] {
    const int64_t spans = cut.lines * ceil_div(cut.steps, 4) * static_cast<int64_t>(plan.groups.size());
    return (layout.in_place && outputs() > kMostBytesInPlace) || spans > kMostSpans;
  };
  while (large_plan() && cut.lines > 1) cut.lines = ceil_div(cut.lines, 2);
  while (large_plan() && cut.steps > kLeastSteps) cut.steps = ceil_div(cut.steps, 2);
  while (scratch() > kTargetBytes && cut.steps > std::max(8 * plan.reach, kLeastSteps))
    cut.steps = ceil_div(cut.steps, 2);
  while (scratch() > kTargetBytes && cut.lines > 1) cut.lines = ceil_div(cut.lines, 2);
  const int64_t least = std::min(steps, std::max(kLeastSteps, 2 * plan.reach));
  while (scratch() > kTargetBytes && cut.steps > least) cut.steps = std::max(least, ceil_div(cut.steps, 2));
  if (scratch() > kScratchBytes) cut.steps = std::min(cut.steps, kLeastSteps);
  const auto tiles = [&] { return ceil_div(lines, cut.lines) * ceil_div(steps, cut.steps); };
  while (tiles() < parts && cut.lines > 1) cut.lines = ceil_div(cut.lines, 2);
  while (tiles() < parts && cut.steps > 8) cut.steps = ceil_div(cut.steps, 2);
  return cut;
}

void place_rows(const Plan& plan, const Cut& cut, int bytes, Layout& layout) {
  for (size_t w = 0; w < plan.windows.size(); ++w) {
    const Window& window = plan.windows[w];
    Place& place = layout.places[w];
    place.rows = cut.steps + window.last - window.first;
    const int64_t elements = layout.in_place ? 0 : cut.lines * place.rows * layout.pitch;
    if (layout.batches.empty() || (layout.batches.back().elements + elements) * bytes > kScratchBytes)
      layout.batches.push_back({w, w, 0, {}});
    Batch& batch = layout.batches.back();
    place.offset = batch.elements;
    batch.elements += elements;
    batch.last_window = w + 1;
  }
  if (layout.batches.empty()) layout.batches.push_back({0, 0, 0, {}});  // no taps: the bias alone
  for (Batch& batch : layout.batches) {
    for (size_t g = 0; g < plan.groups.size(); ++g) {
      const auto window = static_cast<size_t>(plan.groups[g].window);
      if (window >= batch.first_window && window < batch.last_window) batch.groups.push_back(g);
    }
    std::stable_sort(batch.groups.begin(), batch.groups.end(), [&](size_t a, size_t b) {
      const Group &p = plan.groups[a], &q = plan.groups[b];
      return std::tie(p.column_phase, q.height) < std::tie(q.column_phase, p.height);
    });
  }
}

}  // namespace

Schedule make_schedule(const Problem& problem, int64_t o, const Vectors& vectors, int64_t parts) {
  const Phases ys(problem.axis[2]), xs(problem.axis[3]);
  Schedule schedule;
  for (int64_t phase = 0; phase < std::min(ys.upsample, ys.out); ++phase) {
    const int64_t height = ys.outputs(phase), width = xs.outputs(0);
    const auto index = static_cast<int64_t>(schedule.plans.size());
    const Plan& plan = schedule.plans.emplace_back(make_plan(problem, o, phase));
    Layout& layout = schedule.layouts.emplace_back();
    layout.row_phase = phase;
    const int64_t apart = plan.step * ys.stride * problem.axis[3].in;
    layout.in_place = reads_in_place(problem, plan, xs, vectors, apart);
    const int64_t columns = std::min(width, layout.in_place ? kMostColumnsInPlace : kMostColumns);
    place_columns(plan, vectors, columns, columns == width, layout);
    if (layout.in_place) layout.pitch = apart;
    const Cut cut = choose_cut(plan, layout, vectors.bytes, height, columns, ceil_div(parts, ys.upsample));
    place_rows(plan, cut, vectors.bytes, layout);
    const int64_t lines = std::min(plan.step, height), steps = ceil_div(height, plan.step);
    for (int64_t c = 0; c < width; c += cut.columns) {
      for (int64_t l = 0; l < lines; l += cut.lines) {
        for (int64_t s = 0; s < steps; s += cut.steps) {
          schedule.tiles.push_back({index, l, std::min(l + cut.lines, lines), s, std::min(s + cut.steps, steps), c,
                                    std::min(c + cut.columns, width)});
        }
      }
    }
  }
  return schedule;
}

}  // namespace atrous
