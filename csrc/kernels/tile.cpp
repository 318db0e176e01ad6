#include "tile.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(ATROUS_ASAN)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(begin, bytes)
#endif

namespace atrous {
namespace {

// One buffer per thread for the life of the thread: fresh pages would cost more than the work on small images.
void* thread_scratch() {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local const std::unique_ptr<void, Free> scratch(std::aligned_alloc(kLineBytes, kScratchBytes));
  if (!scratch) throw std::bad_alloc();
  return scratch.get();
}

// The bits of [begin, end), as far as a word has them.
uint64_t bits(int64_t begin, int64_t end) {
  begin = std::clamp<int64_t>(begin, 0, 31);
  end = std::clamp<int64_t>(end, begin, 31);
  return (uint64_t{1} << end) - (uint64_t{1} << begin);
}

}  // namespace

template <class T>
TileRunner<T>::TileRunner(const Problem& problem, const Kernels<T>& kernels, bool for_grad)
    : problem_(problem),
      kernels_(kernels),
      for_grad_(for_grad),
      rows_(problem.axis[2]),
      columns_(problem.axis[3]),
      scratch_(static_cast<T*>(thread_scratch())) {}

template <class T>
void TileRunner<T>::turn_to(const Schedule& schedule, const Tile& tile, size_t batch, int64_t z) {
  const auto index = static_cast<size_t>(tile.plan);
  const Batch* const chosen = &schedule.layouts[index].batches[batch];
  const bool same_tile = tile_ == &tile && batch_ == chosen;
  // Planes of a volume differ in where they lie; those of an image do not.
  if (same_tile && z == z_) return;
  tile_ = &tile;
  plan_ = &schedule.plans[index];
  layout_ = &schedule.layouts[index];
  batch_ = chosen;
  z_ = z;
  here_.clear();
  starts_.clear();
  planes_.clear();
  const int64_t plane = problem_.axis[2].in * problem_.axis[3].in;
  const int64_t depth[2] = {z / problem_.axis[1].out, z % problem_.axis[1].out};
  for (size_t w = 0; w < plan_->windows.size(); ++w) {
    const Window& window = plan_->windows[w];
    bool here = true;
    int64_t source = window.channel;
    for (int a = 0; a < 2; ++a) {
      const Axis& deep = problem_.axis[a];
      const int64_t at = depth[a] * deep.stride + window.depth[a];
      here = here && at >= 0 && at % deep.upsample == 0 && at / deep.upsample < deep.in;
      source = source * deep.in + at / deep.upsample;
    }
    here_.push_back(here);
    planes_.push_back(source * plane);
    starts_.push_back(layout_->in_place ? planes_.back() + window.column_phase : layout_->places[w].offset);
  }
  plan_copies();
  if (!same_tile) {
    works_.clear();
    ASAN_POISON_MEMORY_REGION(scratch_, kScratchBytes);
    ASAN_UNPOISON_MEMORY_REGION(scratch_, static_cast<size_t>(batch_->elements) * sizeof(T));
    // The margins stay zero from plane to plane: only pixels are copied over.
    std::fill_n(scratch_, batch_->elements, T{});
  }
  const auto known = std::find_if(works_.begin(), works_.end(), [&](const Work& work) { return work.here == here_; });
  if (known != works_.end()) {
    work_ = &*known;
    return;
  }
  // A volume has as many sets as its taps have depths; more, of scattered taps, are not kept.
  if (works_.size() == 16) works_.clear();
  work_ = &works_.emplace_back(Work{here_, {}, {}, 0, 0});
  plan_blocks();
}

template <class T>
void TileRunner<T>::plan_copies() {
  copies_.clear();
  if (layout_->in_place) return;
  const int64_t width = problem_.axis[3].in, step = plan_->step;
  for (size_t w = batch_->first_window; w < batch_->last_window; ++w) {
    if (!here_[w]) continue;
    const Window& window = plan_->windows[w];
    const Place& place = layout_->places[w];
    const int64_t left = std::max<int64_t>(tile_->column + place.left, 0);
    const int64_t right = std::min(tile_->column + place.left + place.columns, window.width);
    const int64_t first = tile_->step + window.first, end = tile_->step_end + window.last;
    for (int64_t line = tile_->line; line < tile_->line_end; ++line) {
      const int64_t begin = std::max(first, ceil_div(-line - window.row, step));
      const int64_t rows = std::min(end, ceil_div(window.height - line - window.row, step)) - begin;
      if (rows <= 0 || left >= right) continue;
      const int64_t row = (line + window.row + step * begin) * rows_.stride + window.row_phase;
      const int64_t scratch_row = (line - tile_->line) * place.rows + begin - first;
      copies_.push_back({planes_[w] + row * width + left * columns_.stride + window.column_phase,
                         step * rows_.stride * width,
                         scratch_ + place.offset + scratch_row * layout_->pitch + left - tile_->column - place.left,
                         rows, right - left});
    }
  }
}

template <class T>
void TileRunner<T>::fill(const T* input) {
  source_ = layout_->in_place ? input : scratch_;
  for (const Copy& copy : copies_) {
    kernels_.copy(input + copy.from, copy.from_pitch, columns_.stride, copy.to, layout_->pitch, copy.rows,
                  copy.columns);
  }
}

// How many chain steps of a line lie inside the tile, counted from the tile's own first step.
template <class T>
int64_t TileRunner<T>::steps_of(int64_t line) const {
  if (line >= tile_->line_end) return 0;
  const int64_t height = rows_.outputs(layout_->row_phase);
  return std::max<int64_t>(0, std::min(tile_->step_end, ceil_div(height - line, plan_->step)) - tile_->step);
}

// Adds the spans of one column phase for outputs at `room` chain steps from `step` on, of some lines, by height.
template <class T>
void TileRunner<T>::plan_spans(int64_t line, int64_t lines, int64_t step, int64_t room, int64_t column_phase) {
  for (const size_t g : batch_->groups) {
    const Group& group = plan_->groups[g];
    const auto w = static_cast<size_t>(group.window);
    if (group.column_phase != column_phase || !here_[w]) continue;
    const Window& window = plan_->windows[w];
    const Place& place = layout_->places[w];
    // Row m of a line is image row line + window.row + plan.step * (first + m).
    const int64_t first = step + group.first, width = problem_.axis[3].in;
    uint64_t inside = 0;
    for (int64_t l = 0; l < lines; ++l) {
      const int64_t above = -line - l - window.row;
      const int64_t rows = std::min(room, tile_->step + steps_of(line + l) - step);
      const uint64_t here =
          bits(ceil_div(above, plan_->step) - first,
               std::min(ceil_div(window.height + above, plan_->step) - first, rows + group.height - 1));
      if (rows > 0) inside |= here << (l * (room + group.height - 1));
    }
    if (!inside) continue;
    const int64_t scratch_row = (line - tile_->line) * place.rows + first - tile_->step - window.first;
    const int64_t row = (line + window.row + plan_->step * first) * rows_.stride + window.row_phase;
    const int64_t at = layout_->in_place ? row * width : scratch_row * layout_->pitch - tile_->column - place.left;
    const int64_t apart = layout_->in_place ? rows_.stride * width : place.rows * layout_->pitch;
    work_->spans.push_back({static_cast<int64_t>(w), at, apart, inside, static_cast<int32_t>(group.end - group.begin),
                            group.height, window.width, plan_->runs.data() + group.begin});
  }
}

// How many lines one block takes: several where they are short.
template <class T>
int64_t TileRunner<T>::lines_together(int64_t line, int64_t vectors, int64_t phases) const {
  const int64_t left = tile_->line_end - line, steps = steps_of(line);
  for (int64_t lines = kMaxLines; lines > 1 && phases == 1; lines /= 2) {
    if (steps <= kernels_.line_rows[lines] && left > lines / 2 && (lines > 2 || vectors == 1)) return lines;
  }
  return 1;
}

template <class T>
void TileRunner<T>::plan_blocks() {
  const int64_t phases = std::min(columns_.upsample, columns_.out);
  // Two phases are woven into whole rows; more are dealt out one by one.
  const int64_t together = columns_.upsample == 2 ? 2 : 1;
  for (int64_t phase = 0; phase < phases; phase += together) {
    const int64_t width = std::min(tile_->column_end, columns_.outputs(phase)) - tile_->column;
    for (int64_t line = tile_->line, lines; line < tile_->line_end; line += lines) {
      lines = lines_together(line, ceil_div(width, kernels_.lanes), columns_.upsample);
      plan_lines(line, lines, phase, phase + together);
    }
  }
  for (Piece& piece : work_->pieces) {
    piece.block.spans = work_->spans.data() + piece.first_span;
    piece.block.end = work_->spans.data() + piece.last_span;
  }
}

template <class T>
void TileRunner<T>::plan_lines(int64_t line, int64_t lines, int64_t phase, int64_t phase_end) {
  const Kernels<T>& blocks = problem_.channels_last                      ? *kernels_.by_column
                             : layout_->in_place && columns_.stride == 2 ? *kernels_.second_columns
                                                                         : kernels_;
  const auto compiled = [&](int64_t vectors, int64_t rows) {
    return for_grad_ ? blocks.grad[vectors][rows] != nullptr : blocks.conv[vectors][rows] != nullptr;
  };
  const int lanes = kernels_.lanes;
  const int64_t widest = std::min(tile_->column_end, columns_.outputs(phase)) - tile_->column;
  const int64_t vectors = ceil_div(widest, lanes), rest = widest % lanes;
  const int64_t full = blocks.half && rest > 0 && rest <= blocks.half->lanes ? vectors - 1 : vectors;
  const int64_t usual = vectors > 1 && compiled(2, 1) ? 2 : 1, end = tile_->step + steps_of(line);
  int64_t tall = kMaxRows;
  while (!compiled(usual, tall)) --tall;
  for (int64_t i = tile_->step, room; i < end; i += room) {
    const int64_t cuts = ceil_div(end - i, tall);
    room = ceil_div(end - i, cuts);
    while (!compiled(usual, room)) ++room;
    if (lines > 1) room = kernels_.line_rows[lines];
    uint32_t stored = 0;
    for (int64_t l = 0; l < lines; ++l) {
      stored |= static_cast<uint32_t>(bits(0, std::min(room, tile_->step + steps_of(line + l) - i))) << (l * room);
    }
    std::vector<std::pair<size_t, size_t>> spans;
    for (int64_t f = phase; f < phase_end; ++f) {
      const size_t first = work_->spans.size();
      plan_spans(line, lines, i, room, f);
      spans.emplace_back(first, work_->spans.size());
    }
    const int64_t row = (line + plan_->step * i) * rows_.upsample + layout_->row_phase;
    for (int64_t v = 0, wide; v < vectors; v += wide) {
      wide = lines > 1 ? 1 : kMaxVectors;
      while (wide > 1 && (v + wide > std::max(full, v + 1) || !compiled(wide, room))) wide /= 2;
      const int64_t column = tile_->column + v * lanes;
      const Kernels<T>* const kernels = v < full ? &blocks : blocks.half;
      for (int64_t f = phase; f < phase_end; ++f) {
        const auto [first, last] = spans[static_cast<size_t>(f - phase)];
        const int64_t width = std::min(tile_->column_end, columns_.outputs(f));
        const int64_t valid = std::clamp<int64_t>(width - column, 0, wide * kernels->lanes);
        // Sums that wait for a later batch keep a place of their own; a phase's wait for the next one alone.
        const int64_t sums = lines * room * wide * kernels->lanes;
        const int64_t aside = layout_->batches.size() > 1 ? work_->aside : (f - phase) * sums;
        Block<T> block{};
        block.pitch = layout_->pitch;
        block.margins = !layout_->in_place;
        block.column = column;
        block.valid = valid;
        block.apart = rows_.upsample * columns_.out;
        block.stored = stored;
        block.weights = align_up(problem_.axis[3].out, lanes);
        block.ahead = &ahead_;
        work_->pieces.push_back({kernels, lines > 1 ? kernels->conv_lines[lines] : kernels->conv[wide][room],
                                 lines > 1 ? kernels->grad_lines[lines] : kernels->grad[wide][room], block,
                                 row * columns_.out + column * columns_.upsample + f, wide, std::popcount(stored),
                                 first, last, aside});
        work_->aside = std::max(work_->aside, aside + sums);
        for (size_t s = first; s < last; ++s) work_->runs += work_->spans[s].count;
      }
    }
  }
}

template <class T>
void TileRunner<T>::expect(const Schedule& schedule, const Tile& tile, int64_t z, const T* input, const T* output) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(T));
  if (expected_ != &tile) {
    expected_ = &tile;
    const int64_t step = schedule.plans[static_cast<size_t>(tile.plan)].step, lines = tile.line_end - tile.line;
    const int64_t columns = tile.column_end - tile.column, steps = tile.step_end - tile.step;
    const bool whole_rows = columns == columns_.outputs(0);
    // Of a tile that is narrower than the plane, the first line alone.
    const auto stretches = [&](int64_t width, int64_t by, int64_t column_by) {
      const int64_t wanted = (whole_rows ? lines * by * width : columns * column_by) * kBytes;
      const int64_t apart = step * by * width * kBytes;
      if (wanted == apart) return Stretches{nullptr, ceil_div(wanted * steps, kLineBytes), 0, 1, 0};
      return Stretches{nullptr, ceil_div(wanted, kLineBytes), apart, steps, 0};
    };
    const int64_t row = tile.line + step * tile.step;
    expected_reads_ = stretches(problem_.axis[3].in, rows_.stride, columns_.stride);
    expected_writes_ = stretches(columns_.out, rows_.upsample, columns_.upsample);
    reads_start_ = row * rows_.stride * problem_.axis[3].in + tile.column * columns_.stride;
    writes_start_ = row * rows_.upsample * columns_.out + tile.column * columns_.upsample;
    int64_t nearest = 0;
    furthest_[0] = furthest_[1] = 0;
    for (const Window& window : plan_->windows) {
      nearest = std::min(nearest, window.depth[1]);
      for (int a = 0; a < 2; ++a) furthest_[a] = std::max(furthest_[a], window.depth[a]);
    }
    const Axis& deep = problem_.axis[1];
    fresh_ = std::clamp<int64_t>(ceil_div(deep.stride, deep.upsample), 1, furthest_[1] - nearest + 1);
    if (expected_reads_.count == 1) expected_reads_.lines *= fresh_;
    const auto all = [](const Stretches& s) { return s.lines * s.count; };
    ahead_.lines_per_run =
        std::max(all(expected_reads_), all(expected_writes_)) / std::max<int64_t>(work_->runs, 1) + 1;
  }
  ahead_.reads = expected_reads_;
  ahead_.writes = expected_writes_;
  // Of the planes that a volume's output reads, only the furthest is new, or as many as its stride.
  const int64_t depth[2] = {z / problem_.axis[1].out, z % problem_.axis[1].out};
  int64_t plane = 0;
  for (int a = 0; a < 2; ++a) {
    const Axis& deep = problem_.axis[a];
    plane = plane * deep.in + std::clamp<int64_t>((depth[a] * deep.stride + furthest_[a]) / deep.upsample, 0,
                                                  std::max<int64_t>(deep.in - 1, 0));
  }
  if (expected_reads_.count == 1) plane = std::max<int64_t>(plane - fresh_ + 1, 0);
  const T* const reads = input + plane * problem_.axis[2].in * problem_.axis[3].in + reads_start_;
  ahead_.reads.at = reinterpret_cast<const char*>(reads);
  ahead_.writes.at = reinterpret_cast<const char*>(output + writes_start_);
}

template <class T>
void TileRunner<T>::conv(const Wide<T>* packed, const Wide<T>* bias, T* y) {
  const bool first = batch_ == &layout_->batches.front(), last = batch_ == &layout_->batches.back();
  const bool dealt = columns_.upsample > 1;
  const int64_t pitch = plan_->step * rows_.upsample * columns_.out;
  if (!first || !last || dealt) aside_.resize(static_cast<size_t>(work_->aside));
  for (Piece& piece : work_->pieces) {
    Block<T>& block = piece.block;
    block.source = source_;
    block.windows = starts_.data();
    block.resume = first ? nullptr : aside_.data() + piece.aside;
    block.leave = last && !dealt ? nullptr : aside_.data() + piece.aside;
    piece.conv(block, packed, bias, y + piece.at, pitch);
    if (last && dealt) deal_out(piece, y);
  }
}

// Writes sums of a column phase; of two, both phases together when the second one is there.
template <class T>
void TileRunner<T>::deal_out(const Piece& piece, T* y) {
  const int64_t apart = columns_.upsample, pitch = plan_->step * rows_.upsample * columns_.out;
  const int64_t room = piece.vectors * piece.kernels->lanes;
  const Wide<T>* const sums = aside_.data() + piece.aside;
  if (apart == 2) {
    const Piece* const even = &piece - 1;
    if ((&piece - work_->pieces.data()) % 2 == 0) return;
    piece.kernels->weave(aside_.data() + even->aside, sums, room, y + even->at, pitch, piece.rows,
                         even->block.valid + piece.block.valid);
    return;
  }
  for (int64_t i = 0; i < piece.rows; ++i) {
    for (int64_t c = 0; c < piece.block.valid; ++c) y[piece.at + i * pitch + c * apart] = narrow<T>(sums[i * room + c]);
  }
}

template <class T>
void TileRunner<T>::grad(const T* gradient, Wide<T>* accumulators) {
  const int64_t apart = columns_.upsample, pitch = plan_->step * rows_.upsample * columns_.out;
  for (Piece& piece : work_->pieces) {
    Block<T>& block = piece.block;
    block.source = source_;
    block.windows = starts_.data();
    if (apart == 1) {
      piece.grad(block, gradient + piece.at, pitch, accumulators);
    } else {
      const int64_t room = piece.vectors * piece.kernels->lanes;
      gradient_.resize(static_cast<size_t>(kMaxRows * room));
      kernels_.copy(gradient + piece.at, pitch, apart, gradient_.data(), room, piece.rows, block.valid);
      piece.grad(block, gradient_.data(), room, accumulators);
    }
  }
}

#define ATROUS_INSTANTIATE(T) template class TileRunner<T>;
ATROUS_FOR_ELEMENTS(ATROUS_INSTANTIATE)

}  // namespace atrous
