// The register blocks: the only code that depends on the instruction set.
#pragma once

#include <cstdint>

#include "element.h"

// Whether the address sanitizer is on: it does not look into masked loads and stores, so those are done one by one.
#if defined(__SANITIZE_ADDRESS__)
#define ATROUS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ATROUS_ASAN 1
#endif
#endif

namespace atrous {

// Taps above one another: `at + dx` is where their first one reads for the block's first output; their weights (or
// accumulators) are consecutive from `packed` on.
struct Run {
  int32_t dx, packed;
};

// Runs of one height that share a window and their first row.
struct Span {
  int64_t window;   // which of Block::windows it reads
  int64_t at;       // from there: the row of the first tap, at column 0
  int64_t apart;    // from a line to the next
  uint64_t rows;    // bit l * (block's rows + taps - 1) + m: row m of line l is inside the image; no other is read
  int32_t count;    // of runs
  int32_t height;   // taps of each
  int64_t width;    // columns of the source
  const Run* runs;  // sorted by dx
};

constexpr int64_t kLineBytes = 64;

// Memory that will be wanted after the block at hand: `count` stretches of `lines` cache lines, `apart` bytes from one
// another; `done` lines of the first one are on their way.
struct Stretches {
  const char* at = nullptr;
  int64_t lines = 0, apart = 0, count = 0, done = 0;
};

// What is read and what is written next is fetched a few lines per run, while the block at hand computes: stores that
// miss the cache hold up everything behind them.
struct Ahead {
  Stretches reads, writes;
  int64_t lines_per_run = 0;
};

// What one call of a block works on: outputs (or gradients) of some rows of one or more lines, and of `valid` columns
// from column `column` on.
template <class T>
struct Block {
  const T* source;
  const int64_t* windows;   // where they begin, in elements from `source`
  const Span *spans, *end;  // by height, the tallest first
  int64_t pitch;            // between rows of the sources
  bool margins;             // zeros lie beside the image; else nothing there may be read
  int64_t column;
  int64_t valid;
  int64_t apart;    // between lines of the outputs
  uint32_t stored;  // bit l * (block's rows) + i: row i of line l is an output
  int64_t weights;  // where each column has its own weights (or accumulators): from a tap's to the next tap's
  Wide<T>* resume;  // the sums that an earlier block left, whole vectors row by row; or null: they start from the bias
  Wide<T>* leave;   // where to leave them so; or null: they are outputs
  Ahead* ahead;
};

// y = bias + taps; by column the bias is one for each.
template <class T>
using ConvBlock = void (*)(const Block<T>& block, const Wide<T>* weights, const Wide<T>* bias, T* y, int64_t y_pitch);
// accumulators += gradient times shifted input, lane by lane.
template <class T>
using GradBlock = void (*)(const Block<T>& block, const T* grad, int64_t grad_pitch, Wide<T>* accumulators);

// Scattered taps above one another: the first one reads `at` elements from the block's first output, `row` rows and
// `column` elements away from it; their weights (or accumulators) are consecutive from `packed` on.
struct Strip {
  int32_t at, row, column, packed;
};

constexpr int kTallestStrip = 3;

// What one call of a block of scattered taps works on. All that a strip reads is in the scratch, with zeros around the
// image; a strip that sees nothing but those is passed over.
template <class W>
struct CellBlock {
  const W* source;  // where the first output's own pixel lies
  int64_t pitch, out_pitch;
  const Strip *begin[kTallestStrip + 1], *end[kTallestStrip + 1];  // by height
  int64_t rows_above, rows_below;          // a strip of one tap sees the image if its row is between them,
  int64_t columns_before, columns_behind;  // and its column between these
};

// sums = start + taps, in whole vectors.
template <class W>
using CellConv = void (*)(const CellBlock<W>& block, const W* weights, W start, W* sums);
// accumulators += gradient times shifted input, lane by lane; the gradient in whole vectors.
template <class W>
using CellGrad = void (*)(const CellBlock<W>& block, const W* grad, W* accumulators);

constexpr int kMaxRows = 16;  // rows of the tallest block
constexpr int kMaxVectors = 8;
constexpr int kMaxLines = 8;

// What a schedule asks about one instruction set and element type.
struct Vectors {
  const char* isa;
  int lanes;
  int bytes;    // of an element
  bool masks;   // loads can leave lanes out for nothing, so blocks without margins run too
  bool second;  // there are blocks that read every second column
};

// The blocks of one instruction set and element type. A null entry is not compiled: the registers would not hold it.
template <class T>
struct Kernels : Vectors {
  ConvBlock<T> conv[kMaxVectors + 1][kMaxRows + 1];
  GradBlock<T> grad[kMaxVectors + 1][kMaxRows + 1];
  // Blocks of 2, 4 or 8 lines and one vector, for lines of at most `line_rows` rows; 0 where there is none.
  int line_rows[kMaxLines + 1];
  ConvBlock<T> conv_lines[kMaxLines + 1];
  GradBlock<T> grad_lines[kMaxLines + 1];
  const Kernels* half;            // blocks of single vectors half as wide, or null
  const Kernels* second_columns;  // blocks of single vectors that read every second column of their sources, or null
  const Kernels* by_column;       // blocks of single vectors with weights of their own for each column
  // Blocks of scattered taps, of one or two vectors; only where T is what is computed in.
  CellConv<T> conv_cells[3][kMaxRows + 1];
  CellGrad<T> grad_cells[3][kMaxRows + 1];
  Wide<T> (*sum)(const Wide<T>* lanes);
  void (*copy)(const T* from, int64_t from_pitch, int64_t stride, T* to, int64_t to_pitch, int64_t rows,
               int64_t columns);
  void (*weave)(const Wide<T>* even, const Wide<T>* odd, int64_t from_pitch, T* to, int64_t to_pitch, int64_t rows,
                int64_t columns);
};

// Null where the build lacks it. The processor is asked by the caller, `find_kernels`: these functions may already hold
// instructions of their set. Each file of blocks is compiled once for every T, its ATROUS_ELEMENT.
template <class T>
const Kernels<T>* kernels_avx512();
template <class T>
const Kernels<T>* kernels_avx2();
template <class T>
const Kernels<T>* kernels_portable();

}  // namespace atrous
