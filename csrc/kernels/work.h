// How both operations cut their work: by shape alone, so that the bits do not depend on the threads.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "tile.h"

namespace atrous {

// Below this many multiplications another thread costs more than it brings.
constexpr int64_t kGrain = 128 * 1024;
// Tiles or chunks wanted in all.
constexpr int64_t kParts = 32;

// Whether no exponent is all ones; in integers, which are added up in any order.
template <class T>
bool all_finite(const T* values, int64_t count) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  const T infinity = narrow<T>(std::numeric_limits<Wide<T>>::infinity());
  const Bits exponent = std::bit_cast<Bits>(infinity);
  Bits bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= (std::bit_cast<Bits>(values[i]) & exponent) == exponent;
  return bad == 0;
}

// A unit is what shares one schedule: a group, or one output channel where every pair has its own offsets.
struct Units {
  explicit Units(const Problem& p)
      : count(p.per_pair ? p.groups * p.out_channels : p.groups), outputs(p.per_pair ? 1 : p.out_channels) {}
  int64_t count, outputs;
};

// How many parts to cut each plane into, given how many planes there are.
inline int64_t parts_of(const Problem& p, int64_t planes) {
  const int64_t work = planes * p.out_size() * p.in_channels * p.taps;
  return std::clamp<int64_t>(std::min(ceil_div(kParts, std::max<int64_t>(planes, 1)), work / kGrain), 1, kParts);
}

inline int64_t grain_of(const Problem& p, int64_t items) {
  const int64_t work = p.batch * p.groups * p.out_channels * p.out_size() * (p.in_channels * p.taps + 1);
  return std::max<int64_t>(1, kGrain * items / std::max<int64_t>(work, 1));
}

// The schedule of the unit at hand: shared by all of them, or made when the unit changes.
class Schedules {
 public:
  Schedules(const Problem& problem, const Vectors& vectors, const Schedule& shared)
      : problem_(problem), vectors_(vectors), shared_(shared) {}

  template <class T>
  const Schedule& of(int64_t unit, TileRunner<T>& runner) {
    if (!problem_.per_pair) return shared_;
    if (unit != unit_) {
      runner.forget();
      own_ = make_schedule(problem_, unit, vectors_, 1);
      unit_ = unit;
    }
    return own_;
  }

 private:
  const Problem& problem_;
  const Vectors& vectors_;
  const Schedule& shared_;
  Schedule own_;
  int64_t unit_ = -1;
};

// One plane of work. Where each unit has its own schedule the tile is 0 and stands for all of them.
struct Item {
  int64_t tile, sample, unit, depth;
};

// All items in order: by tile, sample, unit, depth; or, so that each unit is planned once, by unit, sample, depth.
struct Walk {
  int64_t tiles, samples, units, depths;
  bool unit_first;

  int64_t size() const { return tiles * samples * units * depths; }

  Item at(int64_t index) const {
    const int64_t inner = unit_first ? samples : units, outer = unit_first ? units : samples;
    const int64_t depth = index % depths, i = index / depths % inner, o = index / (depths * inner) % outer;
    return {index / (depths * inner * outer), unit_first ? i : o, unit_first ? o : i, depth};
  }

  // The item after `item`; after the last one the first.
  Item next(Item item) const {
    if (++item.depth < depths) return item;
    item.depth = 0;
    if (unit_first) {
      if (++item.sample < samples) return item;
      item.sample = 0;
      if (++item.unit < units) return item;
      item.unit = 0;
    } else {
      if (++item.unit < units) return item;
      item.unit = 0;
      if (++item.sample < samples) return item;
      item.sample = 0;
    }
    if (++item.tile == tiles) item.tile = 0;
    return item;
  }
};

}  // namespace atrous
