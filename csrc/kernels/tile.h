// One tile of one output: its sources in the scratch, and the blocks that run over them.
#pragma once

#include <vector>

#include "schedule.h"

namespace atrous {

// Works tiles off, one after another. What a tile and a batch of windows ask for is worked out once and kept while
// plane after plane asks for the same.
template <class T>
class TileRunner {
 public:
  TileRunner(const Problem& problem, const Kernels<T>& kernels, bool for_grad);

  // Turns to a tile, one of its batches and the output's depth z.
  void turn_to(const Schedule& schedule, const Tile& tile, size_t batch, int64_t z);

  // To be called when a schedule ends its life: the next one may stand at its address.
  void forget() { tile_ = expected_ = nullptr; }

  // Takes what the tile reads from `input`, one sample of one group: copies it, or remembers where it lies.
  void fill(const T* input);

  // The tile that comes next, its depth z, and its input and output: what it wants of them that those before it did not
  // is fetched into the cache meanwhile.
  void expect(const Schedule& schedule, const Tile& tile, int64_t z, const T* input, const T* output);

  // y: one sample, channel (or all, where they are the columns) and depth of the output. Only the last batch writes it;
  // those before leave their sums, the first one's starting from `bias`.
  void conv(const Wide<T>* packed, const Wide<T>* bias, T* y);

  // accumulators += gradient times input, in lanes that the caller adds up, or, by channel, each by itself; `gradient`
  // as y.
  void grad(const T* gradient, Wide<T>* accumulators);

 private:
  struct Copy {
    int64_t from, from_pitch;
    T* to;
    int64_t rows, columns;
  };
  // One block of outputs, `at` elements into the plane, the spans that make it, and where its sums may wait.
  struct Piece {
    const Kernels<T>* kernels;
    ConvBlock<T> conv;
    GradBlock<T> grad;
    Block<T> block;
    int64_t at, vectors, rows;
    size_t first_span, last_span;
    int64_t aside;
  };

  // The blocks of a tile, given which windows are inside the image.
  struct Work {
    std::vector<char> here;
    std::vector<Span> spans;
    std::vector<Piece> pieces;
    int64_t runs = 0;   // of all pieces
    int64_t aside = 0;  // sums of all pieces
  };

  void deal_out(const Piece& piece, T* y);
  void plan_copies();
  void plan_blocks();
  int64_t lines_together(int64_t line, int64_t vectors, int64_t phases) const;
  int64_t steps_of(int64_t line) const;
  void plan_lines(int64_t line, int64_t lines, int64_t phase, int64_t phase_end);
  void plan_spans(int64_t line, int64_t lines, int64_t step, int64_t room, int64_t column_phase);

  const Problem& problem_;
  const Kernels<T>& kernels_;
  const bool for_grad_;
  const Phases rows_, columns_;
  T* const scratch_;
  const T* source_ = nullptr;  // the scratch or the input
  const Tile* tile_ = nullptr;
  const Plan* plan_ = nullptr;
  const Layout* layout_ = nullptr;
  const Batch* batch_ = nullptr;
  std::vector<char> here_;       // windows whose depth is inside the image
  std::vector<int64_t> planes_;  // where the windows' planes begin in the input
  std::vector<int64_t> starts_;  // where the blocks find them
  int64_t z_ = 0;
  std::vector<Copy> copies_;
  std::vector<Work> works_;  // of this tile and batch, one for each set of windows met so far
  Work* work_ = nullptr;
  std::vector<Wide<T>> aside_;  // sums that wait: for a later batch, or for the column beside them
  std::vector<T> gradient_;     // of a single column phase, where those take turns in memory
  Ahead ahead_;
  const Tile* expected_ = nullptr;  // what the rest was worked out for
  Stretches expected_reads_, expected_writes_;
  int64_t reads_start_ = 0, writes_start_ = 0, furthest_[2] = {0, 0}, fresh_ = 1;
};

}  // namespace atrous
