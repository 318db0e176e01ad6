#include <optional>
#include <string_view>
#include <vector>

#include "cells.h"
#include "work.h"

namespace atrous {
namespace {

template <class T>
struct Call {
  const Problem& p;
  const T *input, *weight, *bias;
  T* output;
  Units units{p};
  int64_t planes = p.groups * p.out_channels, list = p.in_channels * p.taps;
  int64_t plane = p.axis[2].out * p.axis[3].out;

  const T* input_of(const Item& item) const {
    const int64_t group = p.per_pair ? item.unit / p.out_channels : item.unit;
    return input + (item.sample * p.groups + group) * p.in_channels * p.in_size();
  }
  // The first plane of the unit; its other outputs follow `depths()` planes apart.
  T* output_of(const Item& item) const {
    const int64_t first = item.sample * planes + item.unit * units.outputs;
    return output + (first * p.depths() + item.depth) * plane;
  }
};

// Weights and bias of all columns, in the order of a plan, a tap's columns side by side up to a whole vector.
template <class T>
struct Columns {
  Columns(const Call<T>& call, const Schedule& schedule, int lanes)
      : bias(static_cast<size_t>(align_up(call.p.axis[3].out, lanes))) {
    const int64_t columns = call.p.axis[3].out, pitch = align_up(columns, lanes);
    for (int64_t c = 0; call.bias && c < columns; ++c) bias[static_cast<size_t>(c)] = widen(call.bias[c]);
    for (const Plan& plan : schedule.plans) {
      std::vector<Wide<T>>& packed = weights.emplace_back(plan.taps.size() * static_cast<size_t>(pitch));
      // A few columns at a time: their weights lie side by side, and tap by tap they would be fetched anew.
      for (int64_t first = 0; first < columns; first += lanes) {
        const int64_t end = std::min(first + lanes, columns);
        for (size_t k = 0; k < plan.taps.size(); ++k) {
          Wide<T>* const to = packed.data() + static_cast<int64_t>(k) * pitch;
          for (int64_t c = first; c < end; ++c) to[c] = widen(call.weight[c * call.list + plan.taps[k]]);
        }
      }
    }
  }
  std::vector<Wide<T>> bias;
  std::vector<std::vector<Wide<T>>> weights;  // by plan
};

// One tile of all outputs of a unit. `next_tile` of `next` is what the caches may expect.
template <class T>
void run_tile(const Call<T>& call, const Schedule& schedule, const Columns<T>* columns, const Tile& tile,
              const Item& item, const Tile& next_tile, const Item& next, TileRunner<T>& runner,
              std::vector<Wide<T>>& packed) {
  const auto index = static_cast<size_t>(tile.plan);
  const std::vector<int64_t>& taps = schedule.plans[index].taps;
  const size_t batches = schedule.layouts[index].batches.size(), count = taps.size();
  packed.resize(count);
  T* y = call.output_of(item);
  for (int64_t i = 0; i < call.units.outputs; ++i, y += call.p.depths() * call.plane) {
    const int64_t o = item.unit * call.units.outputs + i;
    const T* w = call.weight + o * call.list;
    for (size_t k = 0; k < count && !columns; ++k) packed[k] = widen(w[taps[k]]);
    const Wide<T> start = call.bias && !columns ? widen(call.bias[o]) : Wide<T>{};
    for (size_t batch = 0; batch < batches; ++batch) {
      if (batches > 1 || i == 0) {
        runner.turn_to(schedule, tile, batch, item.depth);
        runner.fill(call.input_of(item));
      }
      runner.expect(schedule, next_tile, next.depth, call.input_of(next), call.output_of(next));
      runner.conv(columns ? columns->weights[index].data() : packed.data(), columns ? columns->bias.data() : &start, y);
    }
  }
}

// All planes, tile by tile.
template <class T>
void run_tiles(const Call<T>& call, const Kernels<T>& kernels, const Parallel& parallel) {
  const Problem& p = call.p;
  const int64_t planes = p.batch * call.planes * p.depths();
  const Schedule shared = p.per_pair ? Schedule{} : make_schedule(p, 0, kernels, parts_of(p, planes));
  const auto tiles = p.per_pair ? 1 : static_cast<int64_t>(shared.tiles.size());
  const Walk walk{tiles, p.batch, call.units.count, p.depths(), p.per_pair};
  std::optional<Columns<T>> columns;
  if (p.channels_last) columns.emplace(call, shared, kernels.lanes);
  const Columns<T>* const packed_columns = columns ? &*columns : nullptr;
  parallel(walk.size(), grain_of(p, walk.size()), [&](int64_t begin, int64_t end) {
    TileRunner<T> runner(p, kernels, false);
    Schedules schedules(p, kernels, shared);
    std::vector<Wide<T>> packed;
    Item item = walk.at(begin);
    for (int64_t index = begin; index < end; ++index) {
      const Item next = walk.next(item);
      const Schedule& schedule = schedules.of(item.unit, runner);
      if (p.per_pair) {
        for (const Tile& tile : schedule.tiles)
          run_tile<T>(call, schedule, nullptr, tile, item, tile, next, runner, packed);
      } else {
        const Tile* const all = schedule.tiles.data();
        run_tile(call, schedule, packed_columns, all[item.tile], item, all[next.tile], next, runner, packed);
      }
      item = next;
    }
  });
}

}  // namespace

template <class T>
const Kernels<T>* find_kernels(const char* isa) {
#if defined(__x86_64__)
  static const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                             __builtin_cpu_supports("avx512bw");
#else
  static const bool avx2 = false, avx512 = false;
#endif
  const std::string_view name(isa);
  const Kernels<T>* found = nullptr;
  if (avx512 && (name == "avx512" || name.empty())) found = kernels_avx512<T>();
  if (avx2 && (name == "avx2" || (name.empty() && !found))) found = kernels_avx2<T>();
  if (name == "portable" || (name.empty() && !found)) found = kernels_portable<T>();
  return found;
}

template <class T>
void tap_conv(const Problem& p, const T* input, const T* weight, const T* bias, T* output, const Kernels<T>& kernels,
              const Parallel& parallel) {
  const Call<T> call{p, input, weight, bias, output};
  const int64_t planes = p.batch * call.planes * p.depths();
  if (planes * call.plane == 0) return;
  if (const Grid grid = make_grid(p, kernels, false); grid.fits) {
    tap_conv_by_cells(p, grid, input, weight, bias, output, kernels, parallel);
  } else {
    run_tiles(call, kernels, parallel);
  }
  if (all_finite(weight, p.channels() * call.list)) return;
  parallel(p.channels(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      if (!all_finite(weight + o * call.list, call.list)) exact::tap_conv(p, o, input, weight, bias, output);
    }
  });
}

#define ATROUS_INSTANTIATE(T)                           \
  template const Kernels<T>* find_kernels(const char*); \
  template void tap_conv(const Problem&, const T*, const T*, const T*, T*, const Kernels<T>&, const Parallel&);
ATROUS_FOR_ELEMENTS(ATROUS_INSTANTIATE)

}  // namespace atrous
