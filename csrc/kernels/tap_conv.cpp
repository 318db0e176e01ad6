#include <optional>
#include <string_view>
#include <vector>

#include "work.h"

namespace atrous {
namespace {

struct Call {
  const Problem& p;
  const float *input, *weight, *bias;
  float* output;
  Units units{p};
  int64_t planes = p.groups * p.out_channels, list = p.in_channels * p.taps;
  int64_t plane = p.axis[2].out * p.axis[3].out;

  const float* input_of(const Item& item) const {
    const int64_t group = p.per_pair ? item.unit / p.out_channels : item.unit;
    return input + (item.sample * p.groups + group) * p.in_channels * p.in_size();
  }
  // The first plane of the unit; its other outputs follow `depths()` planes apart.
  float* output_of(const Item& item) const {
    const int64_t first = item.sample * planes + item.unit * units.outputs;
    return output + (first * p.depths() + item.depth) * plane;
  }
};

// Weights and bias of all columns, in the order of a plan, a tap's columns side by side up to a whole vector.
struct Columns {
  Columns(const Call& call, const Schedule& schedule, int lanes)
      : bias(static_cast<size_t>(align_up(call.p.axis[3].out, lanes))) {
    const int64_t columns = call.p.axis[3].out, pitch = align_up(columns, lanes);
    if (call.bias) std::copy_n(call.bias, columns, bias.begin());
    for (const Plan& plan : schedule.plans) {
      std::vector<float>& packed = weights.emplace_back(plan.taps.size() * static_cast<size_t>(pitch));
      for (size_t k = 0; k < plan.taps.size(); ++k) {
        float* const to = packed.data() + static_cast<int64_t>(k) * pitch;
        for (int64_t c = 0; c < columns; ++c) to[c] = call.weight[c * call.list + plan.taps[k]];
      }
    }
  }
  std::vector<float> bias;
  std::vector<std::vector<float>> weights;  // by plan
};

// One tile of all outputs of a unit. `next_tile` of `next` is what the caches may expect.
void run_tile(const Call& call, const Schedule& schedule, const Columns* columns, const Tile& tile, const Item& item,
              const Tile& next_tile, const Item& next, TileRunner& runner, std::vector<float>& packed) {
  static const float zero = 0;
  const auto index = static_cast<size_t>(tile.plan);
  const std::vector<int64_t>& taps = schedule.plans[index].taps;
  const size_t batches = schedule.layouts[index].batches.size(), count = taps.size();
  packed.resize(count);
  for (size_t batch = 0; batch < batches; ++batch) {
    runner.turn_to(schedule, tile, batch, item.depth);
    runner.fill(call.input_of(item));
    float* y = call.output_of(item);
    for (int64_t i = 0; i < call.units.outputs; ++i, y += call.p.depths() * call.plane) {
      runner.expect(schedule, next_tile, next.depth, call.input_of(next), call.output_of(next));
      if (columns) {
        runner.conv(columns->weights[index].data(), batch ? nullptr : columns->bias.data(), y);
        continue;
      }
      const int64_t o = item.unit * call.units.outputs + i;
      const float* w = call.weight + o * call.list;
      for (size_t k = 0; k < count; ++k) packed[k] = w[taps[k]];
      const float* start = batch ? nullptr : call.bias ? call.bias + o : &zero;
      runner.conv(packed.data(), start, y);
    }
  }
}

}  // namespace

const Kernels* find_kernels(const char* isa) {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
#else
  static const bool avx2 = false, avx512 = false;
#endif
  const std::string_view name(isa);
  const Kernels* found = nullptr;
  if (avx512 && (name == "avx512" || name.empty())) found = kernels_avx512();
  if (avx2 && (name == "avx2" || (name.empty() && !found))) found = kernels_avx2();
  if (name == "portable" || (name.empty() && !found)) found = kernels_portable();
  return found;
}

void tap_conv(const Problem& p, const float* input, const float* weight, const float* bias, float* output,
              const Kernels& kernels, const Parallel& parallel) {
  const Call call{p, input, weight, bias, output};
  const int64_t planes = p.batch * call.planes * p.depths();
  if (planes * call.plane == 0) return;
  const Schedule shared = p.per_pair ? Schedule{} : make_schedule(p, 0, kernels, parts_of(p, planes));
  const auto tiles = p.per_pair ? 1 : static_cast<int64_t>(shared.tiles.size());
  const Walk walk{tiles, p.batch, call.units.count, p.depths(), p.per_pair};
  std::optional<Columns> columns;
  if (p.channels_last) columns.emplace(call, shared, kernels.lanes);
  const Columns* const packed_columns = columns ? &*columns : nullptr;
  parallel(walk.size(), grain_of(p, walk.size()), [&](int64_t begin, int64_t end) {
    TileRunner runner(p, kernels, false);
    Schedules schedules(p, kernels, shared);
    std::vector<float> packed;
    Item item = walk.at(begin);
    for (int64_t index = begin; index < end; ++index) {
      const Item next = walk.next(item);
      const Schedule& schedule = schedules.of(item.unit, runner);
      if (p.per_pair) {
        for (const Tile& tile : schedule.tiles)
          run_tile(call, schedule, nullptr, tile, item, tile, next, runner, packed);
      } else {
        const Tile* const all = schedule.tiles.data();
        run_tile(call, schedule, packed_columns, all[item.tile], item, all[next.tile], next, runner, packed);
      }
      item = next;
    }
  });
  if (all_finite(weight, p.channels() * call.list)) return;
  parallel(p.channels(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      if (!all_finite(weight + o * call.list, call.list)) exact::tap_conv(p, o, input, weight, bias, output);
    }
  });
}

}  // namespace atrous
