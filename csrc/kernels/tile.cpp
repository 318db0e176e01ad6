#include "tile.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

namespace atrous {
namespace {

// One buffer per thread for the life of the thread: fresh pages would cost more than the work on small images.
float* thread_scratch() {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  thread_local const std::unique_ptr<float, Free> scratch(
      static_cast<float*>(std::aligned_alloc(64, kScratchFloats * sizeof(float))));
  if (!scratch) throw std::bad_alloc();
  return scratch.get();
}

int64_t ceil_div(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }

// The bits of [begin, end), where they are bits of a word.
uint32_t bits(int64_t begin, int64_t end) {
  begin = std::clamp<int64_t>(begin, 0, 31);
  end = std::clamp<int64_t>(end, begin, 31);
  return (1u << end) - (1u << begin);
}

}  // namespace

TileRunner::TileRunner(const Problem& problem, const Kernels& kernels)
    : problem_(problem), kernels_(kernels), rows_(problem.axis[1]), columns_(problem.axis[2]), scratch_(thread_scratch()) {}

void TileRunner::clear_when_new(const Layout& layout, size_t batch, int64_t column) {
  if (cleared_layout_ == &layout && cleared_batch_ == &layout.batches[batch] && cleared_column_ == column) return;
  cleared_layout_ = &layout;
  cleared_batch_ = &layout.batches[batch];
  cleared_column_ = column;
  std::fill_n(scratch_, layout.batches[batch].floats, 0.0f);
}

void TileRunner::fill(const Schedule& schedule, const Tile& tile, size_t batch, const float* input, int64_t z) {
  schedule_ = &schedule;
  tile_ = &tile;
  plan_ = &schedule.plans[static_cast<size_t>(tile.plan)];
  layout_ = &schedule.layouts[static_cast<size_t>(tile.plan)];
  batch_ = &layout_->batches[batch];
  clear_when_new(*layout_, batch, tile.column);
  here_.assign(plan_->windows.size(), 0);
  const Axis& deep = problem_.axis[0];
  const int64_t width = problem_.axis[2].in, plane = problem_.axis[1].in * width;
  for (size_t w = batch_->first_window; w < batch_->last_window; ++w) {
    const Window& window = plan_->windows[w];
    const Place& place = layout_->places[w];
    const int64_t at = z * deep.stride + window.depth;
    if (at < 0 || at % deep.upsample != 0 || at / deep.upsample >= deep.in) continue;
    here_[w] = 1;
    const float* source = input + (window.channel * deep.in + at / deep.upsample) * plane;
    const int64_t left = std::max<int64_t>(tile.column + place.left, 0);
    const int64_t right = std::min(tile.column + place.left + place.columns, window.width);
    if (left >= right) continue;
    for (int64_t line = tile.line; line < tile.line_end; ++line) {
      const int64_t first = tile.step + window.first, end = tile.step_end + window.last;
      const int64_t begin = std::max(first, ceil_div(-line - window.row, plan_->step));
      const int64_t stop = std::min(end, ceil_div(window.height - line - window.row, plan_->step));
      float* to = scratch_ + place.offset + ((line - tile.line) * place.rows + begin - first) * layout_->pitch +
                  (left - tile.column - place.left);
      const int64_t row = (line + window.row + plan_->step * begin) * rows_.stride + window.row_phase;
      kernels_.copy(source + row * width + left * columns_.stride + window.column_phase,
                    plan_->step * rows_.stride * width, columns_.stride, to, layout_->pitch, stop - begin, right - left);
    }
  }
}

// For each window, the chain steps of a line that lie inside the image.
void TileRunner::limit_line(int64_t line) {
  limits_.resize(plan_->windows.size());
  for (size_t w = batch_->first_window; w < batch_->last_window; ++w) {
    const Window& window = plan_->windows[w];
    limits_[w] = {ceil_div(-line - window.row, plan_->step), ceil_div(window.height - line - window.row, plan_->step)};
  }
}

// Makes the spans of one column phase for outputs at chain steps [step, step + rows) of a line, by height. Returns how
// many runs they hold, and one more.
int64_t TileRunner::make_spans(int64_t line, int64_t step, int64_t rows, int64_t column_phase) {
  int64_t runs = 1;
  spans_.clear();
  buckets_.clear();
  for (const size_t g : batch_->groups) {
    const Group& group = plan_->groups[g];
    const auto w = static_cast<size_t>(group.window);
    if (group.column_phase != column_phase || !here_[w]) continue;
    const Window& window = plan_->windows[w];
    const Place& place = layout_->places[w];
    const int64_t first = step + group.first;
    const uint32_t inside =
        bits(limits_[w].first - first, std::min(limits_[w].second - first, rows + group.height - 1));
    if (!inside) continue;
    const float* at = scratch_ + place.offset - tile_->column - place.left +
                      ((line - tile_->line) * place.rows + first - tile_->step - window.first) * layout_->pitch;
    if (buckets_.empty() || buckets_.back().height != group.height) buckets_.push_back({group.height, spans_.size(), 0});
    spans_.push_back({at, inside, static_cast<int32_t>(group.end - group.begin), window.width, plan_->runs.data() + group.begin});
    buckets_.back().end = spans_.size();
    runs += group.end - group.begin;
  }
  return runs;
}

// Calls work(phase, row, row stride, block, vectors, height of the compiled block) for every block of the tile, where
// `row` is the first output row and `block` holds its rows and columns.
template <class Table, class Work>
void TileRunner::each_block(const Table& table, const Work& work) {
  const int lanes = kernels_.lanes;
  const int64_t step = plan_->step, height = rows_.outputs(layout_->row_phase);
  for (int64_t phase = 0; phase < std::min(columns_.upsample, columns_.out); ++phase) {
    const int64_t width = std::min(tile_->column_end, columns_.outputs(phase));
    const int64_t all = (width - tile_->column + lanes - 1) / lanes;
    if (all <= 0) continue;
    const auto& heights = table[all > 1 ? 2 : 1];
    int64_t tall = kMaxRows;
    while (!heights[tall]) --tall;
    for (int64_t line = tile_->line; line < tile_->line_end; ++line) {
      const int64_t end = std::min(tile_->step_end, ceil_div(height - line, step));
      limit_line(line);
      for (int64_t i = tile_->step; i < end;) {
        const int64_t left = end - i, cuts = (left + tall - 1) / tall;
        int64_t compiled = (left + cuts - 1) / cuts;
        while (!heights[compiled]) ++compiled;
        const int64_t rows = std::min(left, compiled);
        const int64_t runs = make_spans(line, i, rows, phase);
        const int64_t row = (line + step * i) * rows_.upsample + layout_->row_phase;
        for (int64_t v = 0; v < all;) {
          int64_t vectors = kMaxVectors;
          while (vectors > 1 && (vectors > all - v || !table[vectors][compiled])) vectors /= 2;
          const int64_t column = tile_->column + v * lanes;
          Block block{nullptr, 0, layout_->pitch, column, rows, std::min(width - column, vectors * lanes), &ahead_};
          ahead_.per_run = rows * vectors * lanes / runs;
          work(phase, row, block, vectors, compiled);
          v += vectors;
        }
        i += rows;
      }
    }
  }
}

void TileRunner::conv(const float* packed, const float* bias, float* y) {
  const int64_t apart = columns_.upsample, width = columns_.out, pitch = plan_->step * rows_.upsample * width;
  each_block(kernels_.conv[1], [&](int64_t phase, int64_t row, Block& block, int64_t vectors, int64_t compiled) {
    float* const first = y + row * width + block.column * apart + phase;
    const int64_t room = vectors * kernels_.lanes;
    float* to = first;
    int64_t to_pitch = pitch;
    if (apart > 1) {  // a block beside y, dealt out below
      row_.resize(static_cast<size_t>(kMaxRows * room));
      to = row_.data();
      to_pitch = room;
      if (!bias) kernels_.copy(first, pitch, apart, to, room, block.rows, block.valid);
    }
    const float* start = bias;
    for (const Bucket& bucket : buckets_) {
      block.spans = spans_.data() + bucket.begin;
      block.count = static_cast<int64_t>(bucket.end - bucket.begin);
      kernels_.conv[bucket.height][vectors][compiled](block, packed, start, to, to_pitch);
      start = nullptr;
    }
    if (start) kernels_.conv[1][vectors][compiled](block, packed, start, to, to_pitch);  // nothing but the bias
    for (int64_t i = 0; apart > 1 && i < block.rows; ++i) {
      for (int64_t c = 0; c < block.valid; ++c) first[i * pitch + c * apart] = to[i * room + c];
    }
  });
}

void TileRunner::grad(const float* gradient, float* accumulators) {
  const int64_t apart = columns_.upsample, width = columns_.out, pitch = plan_->step * rows_.upsample * width;
  each_block(kernels_.grad[1], [&](int64_t phase, int64_t row, Block& block, int64_t vectors, int64_t compiled) {
    if (buckets_.empty()) return;
    const float* from = gradient + row * width + block.column * apart + phase;
    int64_t from_pitch = pitch;
    if (apart > 1) {
      const int64_t room = vectors * kernels_.lanes;
      row_.resize(static_cast<size_t>(kMaxRows * room));
      kernels_.copy(from, pitch, apart, row_.data(), room, block.rows, block.valid);
      from = row_.data();
      from_pitch = room;
    }
    for (const Bucket& bucket : buckets_) {
      block.spans = spans_.data() + bucket.begin;
      block.count = static_cast<int64_t>(bucket.end - bucket.begin);
      kernels_.grad[bucket.height][vectors][compiled](block, from, from_pitch, accumulators);
    }
  });
}

}  // namespace atrous
