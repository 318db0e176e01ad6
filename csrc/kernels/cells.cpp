#include "cells.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <type_traits>
#include <vector>

#include "tile.h"
#include "work.h"

namespace atrous {
namespace {

// One sum takes no more products than these by itself: of many the rounding adds up.
constexpr int64_t kMostAdditions = 512;
// A column of the grid is one word of bits. Beyond the other bounds the work is so much that tiles cost no more.
constexpr int64_t kGridRows = 64, kGridCells = 8192, kScratchElements = 64 * 1024, kLeastRows = 4, kMostSamples = 16;

// The least and the largest offset along an axis of those that any output can see.
struct Extent {
  int64_t least = 0, most = -1;
};

Extent extent_of(const Problem& p, int a) {
  const Axis& axis = p.axis[a];
  const int n = a - (4 - p.axes);
  const int64_t count = p.channels() * p.in_channels * p.taps;
  const auto low = static_cast<int32_t>(1 - axis.out), high = static_cast<int32_t>(axis.in - 1);
  int32_t least = high + 1, most = low - 1;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t at = p.offsets[i * p.axes + n];
    const bool seen = at >= low && at <= high;
    least = std::min(least, seen ? at : high);
    most = std::max(most, seen ? at : low);
  }
  return {least, most};
}

// As many samples side by side as leave the least of the registers empty. Where one fills them, copying is cheaper.
int64_t samples_of(const Problem& p, int lanes) {
  const int64_t width = p.axis[3].out;
  const auto wasted = [&](int64_t n) {
    return static_cast<double>(align_up(width * n, lanes)) / static_cast<double>(width * n);
  };
  if (width > lanes && wasted(1) < 1.25) return 1;
  int64_t best = 1;
  for (int64_t n = 2; n <= std::min(kMostSamples, p.batch) && width * n <= 8 * lanes; n *= 2) {
    if (wasted(n) < wasted(best) || width * best < lanes) best = n;
  }
  return best;
}

// Calls use(N) with the number of samples side by side as a constant.
template <class Use>
void by_samples(int64_t samples, const Use& use) {
  switch (samples) {
    case 1:
      return use(std::integral_constant<int64_t, 1>());
    case 2:
      return use(std::integral_constant<int64_t, 2>());
    case 4:
      return use(std::integral_constant<int64_t, 4>());
    case 8:
      return use(std::integral_constant<int64_t, 8>());
    default:
      return use(std::integral_constant<int64_t, kMostSamples>());
  }
}

template <class Block>
int64_t tallest(const Block (&blocks)[kMaxRows + 1]) {
  int64_t rows = kMaxRows;
  while (rows > 0 && !blocks[rows]) --rows;
  return rows;
}

}  // namespace

template <class T>
Grid make_grid(const Problem& p, const Kernels<T>& kernels, bool for_grad) {
  Grid grid;
  const Kernels<Wide<T>>& wide = *find_kernels<Wide<T>>(kernels.isa);
  const Axis &ys = p.axis[2], &xs = p.axis[3];
  const bool flat = p.axis[0].in * p.axis[0].out * p.axis[1].in * p.axis[1].out == 1 && p.axes == 2;
  const bool dense = ys.stride * ys.upsample * xs.stride * xs.upsample == 1;
  if (!p.per_pair || !flat || !dense || ys.out < kLeastRows || ys.in == 0 || xs.in * xs.out == 0) return grid;
  const Extent y = extent_of(p, 2), x = extent_of(p, 3);
  if (y.least > y.most || x.least > x.most) return grid;
  grid.top = y.least;
  grid.left = x.least;
  grid.rows = y.most - y.least + 1;
  grid.columns = x.most - x.least + 1;
  if (grid.rows > kGridRows || grid.rows * grid.columns * p.in_channels > kGridCells) return grid;
  grid.samples = samples_of(p, wide.lanes);
  grid.groups = ceil_div(p.batch, grid.samples);

  const int64_t tall = for_grad ? tallest(wide.grad_cells[2]) : tallest(wide.conv_cells[2]);
  const auto compiled = [&](int64_t rows) {
    return (for_grad ? wide.grad_cells[2][rows] != nullptr : wide.conv_cells[2][rows] != nullptr);
  };
  grid.room = ceil_div(ys.out, ceil_div(ys.out, tall));
  while (!compiled(grid.room)) ++grid.room;

  const int64_t line = kLineBytes / static_cast<int64_t>(sizeof(Wide<T>)), block = 2 * wide.lanes;
  const int64_t elements = xs.in * grid.samples;
  grid.before = align_up(std::clamp<int64_t>(-grid.left * grid.samples, 0, block), line);
  const int64_t over = align_up(xs.out * grid.samples, block) + (x.most * grid.samples);
  const int64_t after = std::clamp<int64_t>(over - elements, 0, 2 * block);
  grid.pitch = align_up(grid.before + elements + after, line);
  // Rows at a power of two would share the sets of the first-level cache.
  if (grid.pitch * static_cast<int64_t>(sizeof(Wide<T>)) % 1024 == 0) grid.pitch += line;
  grid.out_pitch = align_up(xs.out * grid.samples, block);
  grid.above = std::max<int64_t>(-y.least, 0);
  const int64_t margins = grid.above + std::max<int64_t>(y.most, 0);
  const int64_t rows = kScratchElements / (grid.pitch * p.in_channels) - margins;
  grid.band = std::min(align_up(ys.out, grid.room), rows / grid.room * grid.room);
  if (grid.band < grid.room || grid.band < margins / 2) return grid;
  grid.bands = ceil_div(ys.out, grid.band);
  grid.plane = (grid.band + margins) * grid.pitch;
  grid.fits = true;
  return grid;
}

namespace {

// The taps of one output channel, cell by cell, and what its planes are copied from and to.
template <class T>
class Cells {
 public:
  using W = Wide<T>;
  Cells(const Problem& problem, const Grid& grid, const Kernels<T>& kernels)
      : p(problem),
        g(grid),
        kernels(*find_kernels<Wide<T>>(kernels.isa)),
        cells_(static_cast<size_t>(problem.taps * problem.in_channels)),
        sums_(static_cast<size_t>(problem.in_channels * grid.columns * grid.rows)),
        places_(sums_.size()),
        seen_(static_cast<size_t>(problem.in_channels * grid.columns)),
        scratch_(static_cast<size_t>(problem.in_channels * grid.plane)),
        outputs_(static_cast<size_t>(grid.band * grid.out_pitch)) {}

  // Turns to the taps of output channel `o`; without weights only where they lie matters.
  void turn_to(int64_t o, const T* weight) {
    if (o == output_) return;
    output_ = o;
    std::fill(seen_.begin(), seen_.end(), 0);
    const int64_t list = p.in_channels * p.taps;
    const int32_t* offset = p.offsets + o * list * 2;
    const T* w = weight ? weight + o * list : nullptr;
    int32_t* cell_of = cells_.data();
    for (int64_t c = 0; c < p.in_channels; ++c) {
      for (int64_t t = 0; t < p.taps; ++t, offset += 2, ++cell_of) {
        const int64_t row = offset[0] - g.top, column = offset[1] - g.left;
        *cell_of = -1;
        if (row < 0 || row >= g.rows || column < 0 || column >= g.columns) continue;
        const int64_t at = c * g.columns + column, cell = at * g.rows + row;
        const uint64_t bit = uint64_t{1} << row;
        *cell_of = static_cast<int32_t>(cell);
        if (w) {
          W& sum = sums_[static_cast<size_t>(cell)];
          const W before = seen_[static_cast<size_t>(at)] & bit ? sum : W{};
          sum = before + widen(w[c * p.taps + t]);
        }
        seen_[static_cast<size_t>(at)] |= bit;
      }
    }
    for (auto& strips : strips_) strips.clear();
    packed.clear();
    taken = 0;
    for (int64_t at = 0; at < static_cast<int64_t>(seen_.size()); ++at) {
      for (uint64_t left = seen_[static_cast<size_t>(at)]; left != 0;) {
        const int row = std::countr_zero(left);
        const int length = std::countr_one(left >> row);
        add_strips(at, row, length, weight != nullptr);
        left &= length + row >= 64 ? 0 : ~uint64_t{0} << (row + length);
      }
    }
  }

  // Copies what a band of a group of samples reads.
  void fill(const T* input, int64_t channel, int64_t group, int64_t band) {
    const int64_t first = group * g.samples, count = std::min(g.samples, p.batch - first);
    const int64_t height = p.axis[2].in, width = p.axis[3].in, apart = channels() * height * width;
    const int64_t rows = g.plane / g.pitch, low = band * g.band - g.above;
    if (count < g.samples && count != filled_) std::fill(scratch_.begin(), scratch_.end(), W{});
    filled_ = count;
    for (int64_t c = 0; c < p.in_channels; ++c) {
      const T* plane = input + (first * channels() + channel * p.in_channels + c) * height * width;
      W* to = scratch_.data() + c * g.plane + g.before;
      for (int64_t row = low; row < low + rows; ++row, to += g.pitch) {
        if (row < 0 || row >= height) {
          if (g.bands > 1) std::fill_n(to, width * g.samples, W{});  // else they still are
          continue;
        }
        const T* const from = plane + row * width;
        by_samples(g.samples, [&](auto samples) {
          for (int64_t i = 0; i < width; ++i) {
            for (int64_t n = 0; n < samples && n < count; ++n) to[i * samples + n] = widen(from[n * apart + i]);
          }
        });
      }
    }
  }

  // Calls use(block, vectors, sums), or with gradients in place of the sums, for every block of a band.
  template <class Use>
  void each_block(int64_t band, const Use& use) {
    const int64_t height = p.axis[2].in, elements = p.axis[3].in * g.samples, wide = p.axis[3].out * g.samples;
    const int64_t first = band * g.band, last = std::min(first + g.band, p.axis[2].out);
    CellBlock<W> block;
    block.pitch = g.pitch;
    block.out_pitch = g.out_pitch;
    for (int n = 1; n <= kTallestStrip; ++n) {
      block.begin[n] = strips_[n].data();
      block.end[n] = block.begin[n] + strips_[n].size();
    }
    for (int64_t row = first; row < last; row += g.room) {
      block.rows_above = -row - g.room;
      block.rows_below = height - row;
      for (int64_t column = 0, vectors; column < wide; column += vectors * kernels.lanes) {
        vectors = column + kernels.lanes < wide ? 2 : 1;
        block.source = scratch_.data() + (row - first + g.above) * g.pitch + g.before + column;
        block.columns_before = -column - vectors * kernels.lanes;
        block.columns_behind = elements - column;
        use(block, vectors, outputs_.data() + (row - first) * g.out_pitch + column);
      }
    }
  }

  // Deals the sums of a band out to the planes of a group of samples.
  void deal(T* output, int64_t channel, int64_t group, int64_t band) {
    each_row(channel, group, band, [&](int64_t at, int64_t apart, int64_t count, const W* from) {
      T* const to = output + at;
      by_samples(g.samples, [&](auto samples) {
        for (int64_t i = 0; i < p.axis[3].out; ++i) {
          for (int64_t n = 0; n < samples && n < count; ++n) to[n * apart + i] = narrow<T>(from[i * samples + n]);
        }
      });
    });
  }

  // Gathers the gradients of a band from there; those of rows and samples that are not there are 0.
  void gather(const T* grad, int64_t channel, int64_t group, int64_t band) {
    if (g.bands > 1 || p.batch % g.samples != 0) std::fill(outputs_.begin(), outputs_.end(), W{});
    each_row(channel, group, band, [&](int64_t at, int64_t apart, int64_t count, W* to) {
      const T* const from = grad + at;
      by_samples(g.samples, [&](auto samples) {
        for (int64_t i = 0; i < p.axis[3].out; ++i) {
          for (int64_t n = 0; n < samples && n < count; ++n) to[i * samples + n] = widen(from[n * apart + i]);
        }
      });
    });
  }

  const Problem& p;
  const Grid& g;
  const Kernels<W>& kernels;
  std::vector<W> packed;  // weights of the strips
  int64_t taken = 0;      // taps of all strips
  // Where the sum of tap k lies among those of the strips; -1: no output sees it.
  int64_t place(int64_t k) const {
    const int32_t cell = cells_[static_cast<size_t>(k)];
    return cell < 0 ? -1 : places_[static_cast<size_t>(cell)];
  }

 private:
  int64_t channels() const { return p.groups * p.in_channels; }

  void add_strips(int64_t at, int row, int length, bool weighted) {
    const int64_t channel = at / g.columns, column = (at % g.columns + g.left) * g.samples;
    while (length > 0) {
      const int tall = length == 4 ? 2 : std::min(length, kTallestStrip);
      const auto y = static_cast<int32_t>(row + g.top);
      strips_[tall].push_back({static_cast<int32_t>(channel * g.plane + y * g.pitch + column), y,
                               static_cast<int32_t>(column), static_cast<int32_t>(taken)});
      for (int n = 0; n < tall; ++n, ++row, ++taken) {
        const auto cell = static_cast<size_t>(at * g.rows + row);
        places_[cell] = static_cast<int32_t>(taken);
        if (weighted) packed.push_back(sums_[cell]);
      }
      length -= tall;
    }
  }

  // Calls use(place in the planes of the first sample, from sample to sample, samples, place in the band) for each row.
  template <class Use>
  void each_row(int64_t channel, int64_t group, int64_t band, const Use& use) {
    const int64_t first = group * g.samples, count = std::min(g.samples, p.batch - first);
    const int64_t height = p.axis[2].out, width = p.axis[3].out, planes = p.groups * p.out_channels;
    const int64_t begin = band * g.band, end = std::min(begin + g.band, height);
    for (int64_t row = begin; row < end; ++row) {
      use(((first * planes + channel) * height + row) * width, planes * height * width, count,
          outputs_.data() + (row - begin) * g.out_pitch);
    }
  }

  std::vector<int32_t> cells_;                    // of each tap
  std::vector<W> sums_;                           // of each cell
  std::vector<int32_t> places_;                   // of each cell, among the strips' taps
  std::vector<uint64_t> seen_;                    // a bit for each cell that holds a tap
  std::vector<Strip> strips_[kTallestStrip + 1];  // by height
  std::vector<W> scratch_, outputs_;              // what is read, and the sums or gradients of a band
  int64_t output_ = -1, filled_ = -1;
};

}  // namespace

template <class T>
void tap_conv_by_cells(const Problem& p, const Grid& g, const T* input, const T* weight, const T* bias, T* output,
                       const Kernels<T>& kernels, const Parallel& parallel) {
  std::vector<char> endless(static_cast<size_t>(p.channels()));  // taps of one cell that add up to no number
  const int64_t each = g.groups * g.bands, items = p.channels() * each;
  parallel(items, grain_of(p, items), [&](int64_t begin, int64_t end) {
    Cells<T> cells(p, g, kernels);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t o = item / each, group = item / g.bands % g.groups, band = item % g.bands;
      cells.turn_to(o, weight);
      if (!all_finite(cells.packed.data(), cells.taken)) {
        std::atomic_ref(endless[static_cast<size_t>(o)]).store(1, std::memory_order_relaxed);
      }
      cells.fill(input, o / p.out_channels, group, band);
      const Wide<T> start = bias ? widen(bias[o]) : Wide<T>{};
      cells.each_block(band, [&](const auto& block, int64_t vectors, Wide<T>* sums) {
        cells.kernels.conv_cells[vectors][g.room](block, cells.packed.data(), start, sums);
      });
      cells.deal(output, o, group, band);
    }
  });
  for (int64_t o = 0; o < p.channels(); ++o) {
    if (endless[static_cast<size_t>(o)]) exact::tap_conv(p, o, input, weight, bias, output);
  }
}

template <class T>
void tap_conv_weight_by_cells(const Problem& p, const Grid& g, const T* grad, const T* input, T* weight_grad,
                              const Kernels<T>& kernels, const Parallel& parallel) {
  const int64_t list = p.in_channels * p.taps;
  parallel(p.channels(), grain_of(p, p.channels()), [&](int64_t begin, int64_t end) {
    Cells<T> cells(p, g, kernels);
    std::vector<Wide<T>> lanes, folded, sums;
    const auto slot = static_cast<size_t>(cells.kernels.lanes);
    for (int64_t o = begin; o < end; ++o) {
      cells.turn_to(o, nullptr);
      lanes.assign(static_cast<size_t>(cells.taken) * slot, Wide<T>{});
      folded = lanes;
      int64_t added = 0;
      const auto fold = [&] {
        for (size_t i = 0; i < lanes.size(); ++i) folded[i] += lanes[i];
        std::fill(lanes.begin(), lanes.end(), Wide<T>{});
        added = 0;
      };
      for (int64_t item = 0; item < g.groups * g.bands; ++item) {
        const int64_t group = item / g.bands, band = item % g.bands;
        cells.fill(input, o / p.out_channels, group, band);
        cells.gather(grad, o, group, band);
        cells.each_block(band, [&](const auto& block, int64_t vectors, const Wide<T>* gradients) {
          cells.kernels.grad_cells[vectors][g.room](block, gradients, lanes.data());
          if ((added += g.room * vectors) >= kMostAdditions) fold();
        });
      }
      fold();
      sums.resize(static_cast<size_t>(cells.taken));
      for (size_t k = 0; k < sums.size(); ++k) sums[k] = cells.kernels.sum(folded.data() + k * slot);
      bool finite = true;
      for (int64_t k = 0; k < list; ++k) {
        const int64_t place = cells.place(k);
        const Wide<T> total = place < 0 ? Wide<T>{} : sums[static_cast<size_t>(place)];
        finite &= std::isfinite(total);
        weight_grad[o * list + k] = narrow<T>(total);
      }
      if (!finite) exact::tap_conv_weight(p, o, grad, input, weight_grad);
    }
  });
}

#define ATROUS_INSTANTIATE(T)                                                                                       \
  template Grid make_grid(const Problem&, const Kernels<T>&, bool);                                                 \
  template void tap_conv_by_cells(const Problem&, const Grid&, const T*, const T*, const T*, T*, const Kernels<T>&, \
                                  const Parallel&);                                                                 \
  template void tap_conv_weight_by_cells(const Problem&, const Grid&, const T*, const T*, T*, const Kernels<T>&,    \
                                         const Parallel&);
ATROUS_FOR_ELEMENTS(ATROUS_INSTANTIATE)

}  // namespace atrous
