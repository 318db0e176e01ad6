#include "plan.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

namespace atrous {
namespace {

// Windows no larger than this keep any tap list within the scratch. The one in the middle is centred on no offset.
constexpr int64_t kChain = 32, kColumns = 2048;

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Where a tap reads along one axis, for the outputs of one phase.
struct Seen {
  bool any;
  int64_t phase, offset;
};

Seen see(const Phases& axis, int64_t phase, int64_t offset) {
  if (offset % axis.gcd != 0) return {false, 0, 0};
  const int64_t at = phase * axis.stride + offset / axis.gcd;
  if (at % axis.upsample != 0) return {false, 0, 0};
  const int64_t base = at / axis.upsample, d = floor_div(base, axis.stride), f = base - d * axis.stride;
  return {d < axis.inputs(f) && d > -axis.outputs(phase), f, d};
}

struct Tap {
  int64_t channel, depth[2], row_phase, column_phase, out_column, dx, dy, packed;
  auto column() const { return std::tie(channel, depth[0], depth[1], row_phase, column_phase, out_column, dx); }
};

std::vector<Tap> visible_taps(const Problem& problem, int64_t o, int64_t row_phase, const Phases& ys,
                              const Phases& xs) {
  const auto sees = [&](const Axis& deep, int64_t dz) {
    return dz <= (deep.in - 1) * deep.upsample && dz >= -(deep.out - 1) * deep.stride;
  };
  std::vector<Tap> taps;
  for (int64_t c = 0; c < problem.in_channels; ++c) {
    for (int64_t t = 0; t < problem.taps; ++t) {
      const int64_t deep[2] = {problem.offset(o, c, t, 0), problem.offset(o, c, t, 1)};
      if (!sees(problem.axis[0], deep[0]) || !sees(problem.axis[1], deep[1])) continue;
      const Seen y = see(ys, row_phase, problem.offset(o, c, t, 2));
      if (!y.any) continue;
      for (int64_t out = 0; out < std::min(xs.upsample, xs.out); ++out) {
        const Seen x = see(xs, out, problem.offset(o, c, t, 3));
        if (x.any)
          taps.push_back({c, {deep[0], deep[1]}, y.phase, x.phase, out, x.offset, y.offset, c * problem.taps + t});
      }
    }
  }
  std::sort(taps.begin(), taps.end(), [](const Tap& a, const Tap& b) {
    return std::tuple_cat(a.column(), std::tie(a.dy, a.packed)) < std::tuple_cat(b.column(), std::tie(b.dy, b.packed));
  });
  return taps;
}

// The distance between rows that most taps of a column keep: a dilation. Without a clear one, neighbours.
int64_t common_step(const std::vector<Tap>& taps) {
  std::map<int64_t, int64_t> counts;
  for (size_t i = 1; i < taps.size(); ++i) {
    if (taps[i].column() == taps[i - 1].column() && taps[i].dy > taps[i - 1].dy) ++counts[taps[i].dy - taps[i - 1].dy];
  }
  int64_t step = 1, most = static_cast<int64_t>(taps.size()) / 4;
  for (const auto& [distance, count] : counts) {
    if (count > most) std::tie(step, most) = std::tie(distance, count);
  }
  return step;
}

// How many of n taps in a row the next run takes, so that few passes cover them.
int run_height(int64_t n) {
  if (n == 6) return 3;
  if (n > 7 && n <= 10) return n > 8 ? 5 : 4;
  return static_cast<int>(std::min<int64_t>(n, 7));
}

struct Placed {
  std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t> window;
  int64_t out_column, first, dx;
  int height;
  size_t tap;
};

std::vector<Placed> place_runs(const std::vector<Tap>& taps, int64_t step) {
  std::vector<Placed> runs;
  for (size_t begin = 0; begin < taps.size();) {
    // The chain of taps that goes on, step by step, from `begin`; only columns sorted by dy have one.
    size_t end = begin + 1;
    while (end < taps.size() && taps[end].column() == taps[begin].column() && taps[end].dy == taps[end - 1].dy + step)
      ++end;
    while (begin < end) {
      const Tap& tap = taps[begin];
      const int64_t chain = floor_div(tap.dy, step);
      const int height = run_height(static_cast<int64_t>(end - begin));
      runs.push_back({{tap.channel, tap.depth[0], tap.depth[1], tap.row_phase, tap.column_phase, tap.dy - chain * step,
                       floor_div(chain + kChain / 2, kChain), floor_div(tap.dx + kColumns / 2, kColumns)},
                      tap.out_column,
                      chain,
                      tap.dx,
                      height,
                      begin});
      begin += static_cast<size_t>(height);
    }
  }
  std::sort(runs.begin(), runs.end(), [](const Placed& a, const Placed& b) {
    return std::tie(a.window, a.height, a.out_column, a.first, a.dx, a.tap) <
           std::tie(b.window, b.height, b.out_column, b.first, b.dx, b.tap);
  });
  return runs;
}

}  // namespace

Phases::Phases(const Axis& axis)
    : gcd(std::gcd(axis.stride, axis.upsample)),
      stride(axis.stride / gcd),
      upsample(axis.upsample / gcd),
      in(axis.in),
      out(axis.out) {}

Plan make_plan(const Problem& problem, int64_t o, int64_t row_phase) {
  const Phases ys(problem.axis[2]), xs(problem.axis[3]);
  const std::vector<Tap> taps = visible_taps(problem, o, row_phase, ys, xs);
  Plan plan;
  plan.step = common_step(taps);
  const std::vector<Placed> runs = place_runs(taps, plan.step);
  for (size_t i = 0; i < runs.size(); ++i) {
    const Placed& run = runs[i];
    const Tap& tap = taps[run.tap];
    const int64_t last = run.first + run.height - 1;
    const bool new_window = i == 0 || run.window != runs[i - 1].window;
    if (new_window) {
      plan.windows.push_back({tap.channel,
                              {tap.depth[0], tap.depth[1]},
                              tap.row_phase,
                              tap.column_phase,
                              ys.inputs(tap.row_phase),
                              xs.inputs(tap.column_phase),
                              std::get<5>(run.window),
                              run.first,
                              last,
                              run.dx,
                              run.dx});
    }
    Window& window = plan.windows.back();
    window.first = std::min(window.first, run.first);
    window.last = std::max(window.last, last);
    window.left = std::min(window.left, run.dx);
    window.right = std::max(window.right, run.dx);
    plan.reach = std::max(plan.reach, window.last - window.first);
    const auto same = [&](const Placed& other) {
      return std::tie(other.height, other.out_column, other.first) == std::tie(run.height, run.out_column, run.first);
    };
    if (new_window || !same(runs[i - 1])) {
      const auto here = static_cast<int64_t>(plan.runs.size());
      plan.groups.push_back(
          {static_cast<int64_t>(plan.windows.size()) - 1, run.first, run.height, run.out_column, here, here});
    }
    plan.runs.push_back({static_cast<int32_t>(run.dx), static_cast<int32_t>(plan.taps.size())});
    ++plan.groups.back().end;
    for (int n = 0; n < run.height; ++n) plan.taps.push_back(taps[run.tap + static_cast<size_t>(n)].packed);
  }
  return plan;
}

}  // namespace atrous
