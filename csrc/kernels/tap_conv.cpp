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

// Four nested counters, the last one the fastest.
class Odometer {
 public:
  Odometer(int64_t a, int64_t b, int64_t c, int64_t d) : size_{a, b, c, d}, at_{0, 0, 0, 0} {}
  int64_t items() const { return size_[0] * size_[1] * size_[2] * size_[3]; }
  int64_t operator[](int i) const { return at_[i]; }
  Odometer from(int64_t item) const {
    Odometer result = *this;
    for (int i = 3; i >= 0; --i) {
      result.at_[i] = item % size_[i];
      item /= size_[i];
    }
    return result;
  }
  void next() {
    for (int i = 3; i >= 0 && ++at_[i] == size_[i]; --i) at_[i] = 0;
  }

 private:
  int64_t size_[4], at_[4];
};

// The schedule of the unit at hand: shared by all of them, or made when the unit changes.
class Schedules {
 public:
  Schedules(const Problem& problem, const Kernels& kernels, const Schedule& shared)
      : problem_(problem), kernels_(kernels), shared_(shared) {}
  const Schedule& of(int64_t unit, TileRunner& runner) {
    if (!problem_.per_pair) return shared_;
    if (unit != unit_) {
      runner.forget();
      own_ = make_schedule(problem_, unit, kernels_, 1);
      unit_ = unit;
    }
    return own_;
  }

 private:
  const Problem& problem_;
  const Kernels& kernels_;
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
  if (p.batch * channels * depth * plane == 0) return;
  const Schedule shared =
      p.per_pair ? Schedule{} : make_schedule(p, 0, kernels, parts_of(p, p.batch * channels * depth));
  const auto tiles = p.per_pair ? 1 : static_cast<int64_t>(shared.tiles.size());
  // Where each unit has its own schedule, the batch goes inside, so that it is planned once.
  const Odometer order =
      p.per_pair ? Odometer{1, units.count, p.batch, depth} : Odometer{tiles, p.batch, units.count, depth};
  const auto unit_of = [&](const Odometer& at) { return at[p.per_pair ? 1 : 2]; };
  const auto sample_of = [&](const Odometer& at) { return at[p.per_pair ? 2 : 1]; };
  const auto input_of = [&](const Odometer& at) {
    const int64_t group = p.per_pair ? unit_of(at) / p.out_channels : unit_of(at);
    return input + (sample_of(at) * p.groups + group) * p.in_channels * p.in_size();
  };
  const auto output_of = [&](const Odometer& at, int64_t o) {
    return output + ((sample_of(at) * channels + o) * depth + at[3]) * plane;
  };
  const float zero = 0;
  parallel(order.items(), grain_of(p, order.items()), [&](int64_t begin, int64_t end) {
    TileRunner runner(p, kernels, false);
    Schedules schedules(p, kernels, shared);
    std::vector<float> packed;
    const auto run = [&](const Schedule& schedule, const Tile& tile, const Odometer& at, const Tile& next_tile,
                         const Odometer& next) {
      const auto index = static_cast<size_t>(tile.plan);
      const std::vector<int64_t>& taps = schedule.plans[index].taps;
      packed.resize(taps.size());
      for (size_t batch = 0; batch < schedule.layouts[index].batches.size(); ++batch) {
        runner.turn_to(schedule, tile, batch, at[3]);
        runner.fill(input_of(at));
        for (int64_t o = unit_of(at) * units.outputs; o < (unit_of(at) + 1) * units.outputs; ++o) {
          for (size_t k = 0; k < packed.size(); ++k) packed[k] = weight[o * list + taps[k]];
          const float* start = batch ? nullptr : bias ? bias + o : &zero;
          runner.expect(schedule, next_tile, input_of(next), output_of(next, unit_of(next) * units.outputs));
          runner.conv(packed.data(), start, output_of(at, o));
        }
      }
    };
    Odometer at = order.from(begin);
    for (int64_t item = begin; item < end; ++item) {
      Odometer next = at;
      next.next();
      if (p.per_pair) {
        const Schedule& schedule = schedules.of(at[1], runner);
        for (const Tile& tile : schedule.tiles) run(schedule, tile, at, tile, next);
      } else {
        const auto tile_of = [&](const Odometer& o) -> const Tile& { return shared.tiles[static_cast<size_t>(o[0])]; };
        run(shared, tile_of(at), at, tile_of(next), next);
      }
      at = next;
    }
  });
  if (all_finite(weight, channels * list)) return;
  parallel(channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      if (!all_finite(weight + o * list, list)) exact::tap_conv(p, o, input, weight, bias, output);
    }
  });
}

void tap_conv_weight(const Problem& p, const float* grad, const float* input, float* weight_grad,
                     const Kernels& kernels, const Parallel& parallel) {
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
  const int64_t parts = parts_of(p, units * together);
  const Schedule shared = p.per_pair ? Schedule{} : make_schedule(p, 0, kernels, ceil_div(parts, p.batch * depth));
  const Odometer order{p.per_pair ? 1 : static_cast<int64_t>(shared.tiles.size()), p.batch, depth, 1};
  const int64_t chunks = std::min(order.items(), parts);
  const auto input_of = [&](const Odometer& at, int64_t o) {
    return input + (at[1] * p.groups + o / p.out_channels) * p.in_channels * p.in_size();
  };
  const auto grad_of = [&](const Odometer& at, int64_t o) {
    return grad + ((at[1] * channels + o) * depth + at[2]) * plane;
  };
  std::vector<float> partial(static_cast<size_t>(chunks * channels * list));
  parallel(units * chunks, grain_of(p, units * chunks), [&](int64_t begin, int64_t end) {
    TileRunner runner(p, kernels, true);
    Schedules schedules(p, kernels, shared);
    std::vector<float> sums;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t chunk = item % chunks, unit = item / chunks;
      const int64_t first = unit / per_unit * all.outputs + unit % per_unit * together;
      const int64_t last = std::min(first + together, (unit / per_unit + 1) * all.outputs);
      const Schedule& schedule = schedules.of(unit / per_unit, runner);
      std::vector<int64_t> before{0};  // each plan's taps among those of all
      for (const Plan& plan : schedule.plans) before.push_back(before.back() + static_cast<int64_t>(plan.taps.size()));
      sums.assign(static_cast<size_t>((last - first) * before.back() * lanes), 0.0f);
      const int64_t piece_begin = order.items() * chunk / chunks, piece_end = order.items() * (chunk + 1) / chunks;
      const auto add = [&](const Tile& tile, const Odometer& at, bool is_last) {
        const auto index = static_cast<size_t>(tile.plan);
        // What comes next: the next piece of this chunk, or its first piece again, of the next unit.
        Odometer next = at;
        if (is_last)
          next = order.from(piece_begin);
        else
          next.next();
        const int64_t next_first = is_last ? last : first;
        const Tile& next_tile = p.per_pair ? tile : shared.tiles[static_cast<size_t>(next[0])];
        for (size_t batch = 0; batch < schedule.layouts[index].batches.size(); ++batch) {
          runner.turn_to(schedule, tile, batch, at[2]);
          runner.fill(input_of(at, first));
          for (int64_t o = first; o < last; ++o) {
            runner.expect(schedule, next_tile, input_of(next, next_first), grad_of(next, next_first));
            runner.grad(grad_of(at, o), sums.data() + ((o - first) * before.back() + before[index]) * lanes);
          }
        }
      };
      Odometer at = order.from(piece_begin);
      for (int64_t piece = piece_begin; piece < piece_end; ++piece, at.next()) {
        if (p.per_pair) {
          for (const Tile& tile : schedule.tiles) add(tile, at, piece + 1 == piece_end);
        } else {
          add(shared.tiles[static_cast<size_t>(at[0])], at, piece + 1 == piece_end);
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
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
          total += partial[static_cast<size_t>((chunk * channels + o) * list + k)];
        weight_grad[o * list + k] = total;
      }
      if (!all_finite(weight_grad + o * list, list)) exact::tap_conv_weight(p, o, grad, input, weight_grad);
    }
  });
}

}  // namespace atrous
