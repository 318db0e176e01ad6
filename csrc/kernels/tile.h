// One tile of one output: its sources in the scratch, and the blocks that run over them.
#pragma once

#include <utility>
#include <vector>

#include "schedule.h"

namespace atrous {

class TileRunner {
 public:
  TileRunner(const Problem& problem, const Kernels& kernels);

  // Copies what `tile` reads for the output's depth z, from `input`: one sample of one group.
  void fill(const Schedule& schedule, const Tile& tile, size_t batch, const float* input, int64_t z);

  // To be called when a schedule ends its life: the next one may stand at its address.
  void forget() { cleared_layout_ = nullptr; }

  // What will be needed next: fetched into the cache, bit by bit, while the blocks at hand run.
  void expect(const float* reads, const float* writes, int64_t floats) { ahead_ = {reads, writes, floats, 0}; }

  // y: one sample, channel and depth of the output; starts from `bias`, or goes on from y where it is null.
  void conv(const float* packed, const float* bias, float* y);

  // accumulators[packed * lanes + lane] += gradient times input.
  void grad(const float* gradient, float* accumulators);

 private:
  struct Bucket {
    int height;
    size_t begin, end;  // in spans_
  };
  template <class Table, class Work>
  void each_block(const Table& table, const Work& work);
  int64_t make_spans(int64_t line, int64_t step, int64_t rows, int64_t column_phase);
  void limit_line(int64_t line);
  void clear_when_new(const Layout& layout, size_t batch, int64_t column);

  const Problem& problem_;
  const Kernels& kernels_;
  const Phases rows_, columns_;
  const Schedule* schedule_ = nullptr;
  const Tile* tile_ = nullptr;
  const Plan* plan_ = nullptr;
  const Layout* layout_ = nullptr;
  const Batch* batch_ = nullptr;
  float* scratch_;
  std::vector<char> here_;  // windows whose depth is inside the image
  std::vector<std::pair<int64_t, int64_t>> limits_;  // per window: the chain steps of this line inside the image
  std::vector<Span> spans_;
  std::vector<Bucket> buckets_;
  std::vector<float> row_;  // a block of one column phase, where those are interleaved in memory
  Ahead ahead_{};
  const Layout* cleared_layout_ = nullptr;
  const Batch* cleared_batch_ = nullptr;
  int64_t cleared_column_ = -1;
};

}  // namespace atrous
