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
  int64_t channels = p.groups * p.out_channels, list = p.in_channels * p.taps;
  int64_t plane = p.axis[1].out * p.axis[2].out;

  const float* input_of(const Item& item) const {
    const int64_t group = p.per_pair ? item.unit / p.out_channels : item.unit;
    return input + (item.sample * p.groups + group) * p.in_channels * p.in_size();
  }
  // The first plane of the unit; its other outputs follow `axis[0].out` planes apart.
  float* output_of(const Item& item) const {
    const int64_t first = item.sample * channels + item.unit * units.outputs;
    return output + (first * p.axis[0].out + item.depth) * plane;
  }
};

// One tile of all outputs of a unit. `next_tile` of `next` is what the caches may expect.
void run_tile(const Call& call, const Schedule& schedule, const Tile& tile, const Item& item, const Tile& next_tile,
              const Item& next, TileRunner& runner, std::vector<float>& packed) {
  static const float zero = 0;
  const auto index = static_cast<size_t>(tile.plan);
  const std::vector<int64_t>& taps = schedule.plans[index].taps;
  const size_t batches = schedule.layouts[index].batches.size(), count = taps.size();
  packed.resize(count);
  for (size_t batch = 0; batch < batches; ++batch) {
    runner.turn_to(schedule, tile, batch, item.depth);
    runner.fill(call.input_of(item));
    float* y = call.output_of(item);
    for (int64_t i = 0; i < call.units.outputs; ++i, y += call.p.axis[0].out * call.plane) {
      const int64_t o = item.unit * call.units.outputs + i;
      const float* w = call.weight + o * call.list;
      for (size_t k = 0; k < count; ++k) packed[k] = w[taps[k]];
      const float* start = batch ? nullptr : call.bias ? call.bias + o : &zero;
      runner.expect(schedule, next_tile, call.input_of(next), call.output_of(next));
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
  const int64_t planes = p.batch * call.channels * p.axis[0].out;
  if (planes * call.plane == 0) return;
  const Schedule shared = p.per_pair ? Schedule{} : make_schedule(p, 0, kernels, parts_of(p, planes));
  const auto tiles = p.per_pair ? 1 : static_cast<int64_t>(shared.tiles.size());
  const Walk walk{tiles, p.batch, call.units.count, p.axis[0].out, p.per_pair};
  parallel(walk.size(), grain_of(p, walk.size()), [&](int64_t begin, int64_t end) {
    TileRunner runner(p, kernels, false);
    Schedules schedules(p, kernels, shared);
    std::vector<float> packed;
    Item item = walk.at(begin);
    for (int64_t index = begin; index < end; ++index) {
      const Item next = walk.next(item);
      const Schedule& schedule = schedules.of(item.unit, runner);
      if (p.per_pair) {
        for (const Tile& tile : schedule.tiles) run_tile(call, schedule, tile, item, tile, next, runner, packed);
      } else {
        const Tile* const all = schedule.tiles.data();
        run_tile(call, schedule, all[item.tile], item, all[next.tile], next, runner, packed);
      }
      item = next;
    }
  });
  if (all_finite(weight, call.channels * call.list)) return;
  parallel(call.channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      if (!all_finite(weight + o * call.list, call.list)) exact::tap_conv(p, o, input, weight, bias, output);
    }
  });
}

}  // namespace atrous
