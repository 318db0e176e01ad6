// The two operations: which tiles of which planes, in which order, on which threads. Work is cut by shape alone and
// every sum has one order, so the bits do not depend on the threads.
#include <algorithm>
#include <string_view>

#include "tile.h"

namespace atrous {
namespace {

// Below this many multiplications another thread costs more than it brings.
constexpr int64_t kGrain = 64 * 1024;
// Tiles or chunks wanted in all.
constexpr int64_t kParts = 32;
// Accumulators of one unit of the weight gradient: 1 MiB.
constexpr int64_t kAccumulatorFloats = (1 << 20) / sizeof(float);

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// 0 * x is 0 unless x is infinite or not a number.
bool all_finite(const float* values, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += values[i] * 0.0f;
  return sum == 0.0f;
}

// A unit is what shares one schedule: a group, or one output channel where every pair has its own offsets.
struct Units {
  explicit Units(const Problem& p)
      : count(p.per_pair ? p.groups * p.out_channels : p.groups), outputs(p.per_pair ? 1 : p.out_channels) {}
  int64_t count, outputs;
};

// How many parts to cut each plane into, given how many planes and how much work there is.
int64_t parts_of(const Problem& p, int64_t planes) {
  const int64_t work = planes * p.out_size() * p.in_channels * p.taps;
  return std::clamp<int64_t>(std::min(ceil_div(kParts, std::max<int64_t>(planes, 1)), work / kGrain), 1, kParts);
}

int64_t grain_of(const Problem& p, int64_t items) {
  const int64_t work = p.batch * p.groups * p.out_channels * p.out_size() * (p.in_channels * p.taps + 1);
  return std::max<int64_t>(1, kGrain * items / std::max<int64_t>(work, 1));
}

// The schedule of the unit at hand: shared by all of them, or made when the unit changes.
class Schedules {
 public:
  Schedules(const Problem& problem, int lanes, const Schedule& shared) : problem_(problem), lanes_(lanes), shared_(shared) {}
  const Schedule& of(int64_t unit, TileRunner& runner) {
    if (!problem_.per_pair) return shared_;
    if (unit != unit_) {
      runner.forget();
      own_ = make_schedule(problem_, unit, lanes_, 1);
      unit_ = unit;
    }
    return own_;
  }

 private:
  const Problem& problem_;
  int lanes_;
  const Schedule& shared_;
  Schedule own_;
  int64_t unit_ = -1;
};

}  // namespace

const Kernels* find_kernels(const char* isa) {
  const std::string_view name(isa);
  const Kernels* found = nullptr;
  if (name == "avx512" || name.empty()) found = kernels_avx512();
  if (name == "avx2" || (name.empty() && !found)) found = kernels_avx2();
  if (name == "portable" || (name.empty() && !found)) found = kernels_portable();
  return found;
}

void tap_conv(const Problem& p, const float* input, const float* weight, const float* bias, float* output,
              const Kernels& kernels, const Parallel& parallel) {
  const Units units(p);
  const int64_t channels = p.groups * p.out_channels, list = p.in_channels * p.taps;
  const int64_t depth = p.axis[0].out, plane = p.axis[1].out * p.axis[2].out;
  const int64_t planes = p.batch * units.count * depth;
  if (planes == 0 || plane == 0 || channels == 0) return;
  const Schedule shared = p.per_pair ? Schedule{} : make_schedule(p, 0, kernels.lanes, parts_of(p, planes * units.outputs));
  const int64_t items = planes * (p.per_pair ? 1 : static_cast<int64_t>(shared.tiles.size()));
  const float zero = 0;
  parallel(items, grain_of(p, items), [&](int64_t begin, int64_t end) {
    TileRunner runner(p, kernels);
    Schedules schedules(p, kernels.lanes, shared);
    std::vector<float> packed;
    const auto run = [&](const Schedule& schedule, const Tile& tile, int64_t b, int64_t unit, int64_t z) {
      const Plan& plan = schedule.plans[static_cast<size_t>(tile.plan)];
      const size_t batches = schedule.layouts[static_cast<size_t>(tile.plan)].batches.size();
      const int64_t group = unit * units.outputs / p.out_channels;
      const float* x = input + (b * p.groups + group) * p.in_channels * p.in_size();
      packed.resize(plan.taps.size());
      for (size_t batch = 0; batch < batches; ++batch) {
        runner.fill(schedule, tile, batch, x, z);
        for (int64_t o = unit * units.outputs; o < (unit + 1) * units.outputs; ++o) {
          for (size_t k = 0; k < packed.size(); ++k) packed[k] = weight[o * list + plan.taps[k]];
          const float* start = batch ? nullptr : bias ? bias + o : &zero;
          runner.conv(packed.data(), start, output + ((b * channels + o) * depth + z) * plane);
        }
      }
    };
    for (int64_t item = begin; item < end; ++item) {
      const int64_t z = item % depth, rest = item / depth;
      if (p.per_pair) {  // the batch inside, so that each unit is planned once
        const int64_t unit = rest / p.batch;
        const Schedule& schedule = schedules.of(unit, runner);
        for (const Tile& tile : schedule.tiles) run(schedule, tile, rest % p.batch, unit, z);
      } else {
        const int64_t b = rest / units.count % p.batch;
        const int64_t unit = rest % units.count;
        if (units.outputs == 1 && p.in_channels == 1 && depth == 1) {
          const int64_t next = (b * units.count + unit + 1) % (p.batch * units.count);
          runner.expect(input + next * p.in_size(), output + next * plane, std::min(p.in_size(), plane));
        }
        run(shared, shared.tiles[static_cast<size_t>(item / planes)], b, unit, z);
      }
    }
  });
  if (all_finite(weight, channels * list)) return;
  parallel(channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      if (!all_finite(weight + o * list, list)) exact::tap_conv(p, o, input, weight, bias, output);
    }
  });
}

void tap_conv_weight(const Problem& p, const float* grad, const float* input, float* weight_grad, const Kernels& kernels,
                     const Parallel& parallel) {
  const Units all(p);
  const int64_t channels = p.groups * p.out_channels, list = p.in_channels * p.taps;
  const int64_t depth = p.axis[0].out, plane = p.axis[1].out * p.axis[2].out, lanes = kernels.lanes;
  if (channels == 0 || list == 0) return;
  if (p.batch * p.out_size() == 0 || list * lanes > kAccumulatorFloats) {
    parallel(channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) exact::tap_conv_weight(p, o, grad, input, weight_grad);
    });
    return;
  }
  // So many outputs of a group together that their accumulators stay within bounds.
  const int64_t together = std::min(all.outputs, kAccumulatorFloats / (list * lanes));
  const int64_t per_unit = ceil_div(all.outputs, together), units = all.count * per_unit;
  const Schedule shared = p.per_pair ? Schedule{} : make_schedule(p, 0, kernels.lanes, parts_of(p, p.batch * units * depth));
  const int64_t tiles = p.per_pair ? 1 : static_cast<int64_t>(shared.tiles.size());
  const int64_t pieces = p.batch * depth * tiles;
  const int64_t chunks = std::min(pieces, parts_of(p, units * together));
  std::vector<float> partial(static_cast<size_t>(chunks * channels * list));
  parallel(units * chunks, grain_of(p, units * chunks), [&](int64_t begin, int64_t end) {
    TileRunner runner(p, kernels);
    Schedules schedules(p, kernels.lanes, shared);
    std::vector<float> sums;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t chunk = item % chunks, unit = item / chunks;
      const int64_t first = unit / per_unit * all.outputs + unit % per_unit * together;
      const int64_t last = std::min(first + together, (unit / per_unit + 1) * all.outputs);
      const Schedule& schedule = schedules.of(unit / per_unit, runner);
      int64_t taps = 0;
      for (const Plan& plan : schedule.plans) taps += static_cast<int64_t>(plan.taps.size());
      sums.assign(static_cast<size_t>((last - first) * taps * lanes), 0.0f);
      const auto add = [&](const Tile& tile, int64_t b, int64_t z) {
        int64_t before = 0;
        for (int64_t i = 0; i < tile.plan; ++i) before += static_cast<int64_t>(schedule.plans[static_cast<size_t>(i)].taps.size());
        const float* x = input + (b * p.groups + first / p.out_channels) * p.in_channels * p.in_size();
        const size_t batches = schedule.layouts[static_cast<size_t>(tile.plan)].batches.size();
        for (size_t batch = 0; batch < batches; ++batch) {
          runner.fill(schedule, tile, batch, x, z);
          for (int64_t o = first; o < last; ++o) {
            runner.grad(grad + ((b * channels + o) * depth + z) * plane, sums.data() + ((o - first) * taps + before) * lanes);
          }
        }
      };
      for (int64_t piece = pieces * chunk / chunks; piece < pieces * (chunk + 1) / chunks; ++piece) {
        const int64_t z = piece % depth, b = piece / depth % p.batch;
        if (p.per_pair) {
          for (const Tile& tile : schedule.tiles) add(tile, b, z);
        } else {
          add(shared.tiles[static_cast<size_t>(piece / (depth * p.batch))], b, z);
        }
      }
      const float* sum = sums.data();
      for (int64_t o = first; o < last; ++o) {
        float* to = partial.data() + (chunk * channels + o) * list;
        for (const Plan& plan : schedule.plans) {
          for (const int64_t tap : plan.taps) {
            to[tap] = kernels.sum(sum);
            sum += lanes;
          }
        }
      }
    }
  });
  parallel(channels, 1 + kGrain / (chunks * list), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t k = 0; k < list; ++k) {
        float total = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) total += partial[static_cast<size_t>((chunk * channels + o) * list + k)];
        weight_grad[o * list + k] = total;
      }
      if (!all_finite(weight_grad + o * list, list)) exact::tap_conv_weight(p, o, grad, input, weight_grad);
    }
  });
}

}  // namespace atrous
