#include <algorithm>
#include <cmath>
#include <vector>

#include "cells.h"
#include "work.h"

namespace atrous {
namespace {

// Accumulators of one job: 1 MiB, or those of a single output with more than 16384 channels times taps.
constexpr int64_t kAccumulatorBytes = 1 << 20;

// A job adds up one chunk of the planes for some outputs of one unit, in lanes; its sums go into `partial`.
template <class T>
class Call {
 public:
  Call(const Problem& problem, const T* grad, const T* input, const Kernels<T>& kernels)
      : p(problem), grad_(grad), input_(input), kernels_(kernels) {
    if (!p.per_pair) shared_ = make_schedule(p, 0, kernels, ceil_div(parts_, p.batch * p.depths()));
    walk_ = {p.per_pair ? 1 : static_cast<int64_t>(shared_.tiles.size()), p.batch, 1, p.depths(), p.per_pair};
    chunks = std::min(walk_.size(), parts_);
    jobs = all_.count * per_unit_ * chunks;
    partial.resize(static_cast<size_t>(chunks * channels * list));
  }

  void run(int64_t begin, int64_t end) {
    TileRunner<T> runner(p, kernels_, true);
    Schedules schedules(p, kernels_, shared_);
    std::vector<Wide<T>> sums;
    for (int64_t job = begin; job < end; ++job) {
      const int64_t part = job / chunks;
      run_job(job % chunks, part, schedules.of(part / per_unit_, runner), runner, sums);
    }
  }

  const Problem& p;
  const int64_t channels = p.channels(), list = p.in_channels * p.taps;
  int64_t chunks, jobs;
  std::vector<Wide<T>> partial;  // (chunks, channels, list)

 private:
  void run_job(int64_t chunk, int64_t part, const Schedule& schedule, TileRunner<T>& runner,
               std::vector<Wide<T>>& sums) {
    const int64_t unit = part / per_unit_, first = unit * all_.outputs + part % per_unit_ * together_;
    const int64_t last = std::min(first + together_, (unit + 1) * all_.outputs);
    std::vector<int64_t> before{0};  // each plan's taps among those of all
    for (const Plan& plan : schedule.plans) before.push_back(before.back() + static_cast<int64_t>(plan.taps.size()));
    const int64_t apart = before.back() * slot_;
    sums.assign(static_cast<size_t>((last - first) * apart), Wide<T>{});
    const int64_t begin = walk_.size() * chunk / chunks, end = walk_.size() * (chunk + 1) / chunks;
    Item item = walk_.at(begin);
    for (int64_t index = begin; index < end; ++index) {
      // What comes next: this chunk's next item, or its first again, of the next outputs.
      const Item next = index + 1 == end ? walk_.at(begin) : walk_.next(item);
      const int64_t next_first = index + 1 == end ? last % planes_ : first;
      const auto add = [&](const Tile& tile, const Tile& next_tile) {
        const auto plan = static_cast<size_t>(tile.plan);
        for (size_t batch = 0; batch < schedule.layouts[plan].batches.size(); ++batch) {
          runner.turn_to(schedule, tile, batch, item.depth);
          runner.fill(input_of(item, first));
          for (int64_t o = first; o < last; ++o) {
            runner.expect(schedule, next_tile, next.depth, input_of(next, next_first), grad_of(next, next_first));
            runner.grad(grad_of(item, o), sums.data() + (o - first) * apart + before[plan] * slot_);
          }
        }
      };
      const Tile* const tiles = schedule.tiles.data();
      if (p.per_pair) {
        for (const Tile& tile : schedule.tiles) add(tile, tile);
      } else {
        add(tiles[item.tile], tiles[next.tile]);
      }
      item = next;
    }
    const Wide<T>* sum = sums.data();
    for (int64_t o = first; o < last; ++o) {
      for (const Plan& plan : schedule.plans) {
        for (const int64_t tap : plan.taps) {
          Wide<T>* const to = partial.data() + (chunk * channels + o) * list + tap;
          if (p.channels_last) {
            for (int64_t c = 0; c < channels; ++c) to[c * list] = sum[c];
          } else {
            *to = kernels_.sum(sum);
          }
          sum += slot_;
        }
      }
    }
  }

  const T* input_of(const Item& item, int64_t o) const {
    return input_ + (item.sample * p.groups + o / p.out_channels) * p.in_channels * p.in_size();
  }
  const T* grad_of(const Item& item, int64_t o) const {
    return grad_ + ((item.sample * planes_ + o) * p.depths() + item.depth) * p.axis[2].out * p.axis[3].out;
  }

  const T *const grad_, *const input_;
  const Kernels<T>& kernels_;
  const Units all_{p};
  const int64_t planes_ = p.groups * p.out_channels;
  // Accumulators of one tap: lanes to be added up, or one for each channel.
  const int64_t slot_ = p.channels_last ? align_up(channels, kernels_.lanes) : kernels_.lanes;
  // So many outputs of a unit at once that their accumulators stay within bounds.
  const int64_t together_ =
      std::clamp<int64_t>(kAccumulatorBytes / (list * slot_ * static_cast<int64_t>(sizeof(Wide<T>))), 1, all_.outputs);
  const int64_t per_unit_ = ceil_div(all_.outputs, together_);
  const int64_t parts_ = parts_of(p, all_.count* all_.outputs);
  Schedule shared_;
  Walk walk_;
};

}  // namespace

template <class T>
void tap_conv_weight(const Problem& p, const T* grad, const T* input, T* weight_grad, const Kernels<T>& kernels,
                     const Parallel& parallel) {
  const int64_t channels = p.channels(), list = p.in_channels * p.taps;
  if (channels * list == 0) return;
  if (p.batch * p.out_size() == 0) {
    std::fill_n(weight_grad, channels * list, T{});
    return;
  }
  if (const Grid cells = make_grid(p, kernels, true); cells.fits) {
    return tap_conv_weight_by_cells(p, cells, grad, input, weight_grad, kernels, parallel);
  }
  Call<T> call(p, grad, input, kernels);
  parallel(call.jobs, grain_of(p, call.jobs), [&](int64_t begin, int64_t end) { call.run(begin, end); });
  parallel(channels, 1 + kGrain / (call.chunks * list), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      bool finite = true;
      for (int64_t k = o * list; k < (o + 1) * list; ++k) {
        Wide<T> total = 0;
        for (int64_t chunk = 0; chunk < call.chunks; ++chunk) {
          total += call.partial[static_cast<size_t>(chunk * channels * list + k)];
        }
        weight_grad[k] = narrow<T>(total);
        finite &= std::isfinite(total);
      }
      if (!finite) exact::tap_conv_weight(p, o, grad, input, weight_grad);
    }
  });
}

#define ATROUS_INSTANTIATE(T) \
  template void tap_conv_weight(const Problem&, const T*, const T*, T*, const Kernels<T>&, const Parallel&);
ATROUS_FOR_ELEMENTS(ATROUS_INSTANTIATE)

}  // namespace atrous
