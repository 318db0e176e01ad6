// The register blocks: the only code that depends on the instruction set.
#pragma once

#include <cstdint>

// Whether the address sanitizer is on: it does not look into masked loads and stores, so those are done float by float.
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

// Memory that will be wanted after the block at hand: `count` stretches of `lines` cache lines, `apart` floats from one
// another; `done` lines of the first one are on their way.
struct Stretches {
  const float* at = nullptr;
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
struct Block {
  const float* source;
  const int64_t* windows;   // where they begin, in floats from `source`
  const Span *spans, *end;  // by height, the tallest first
  int64_t pitch;            // between rows of the sources
  bool margins;             // zeros lie beside the image; else nothing there may be read
  int64_t column;
  int64_t valid;
  int64_t apart;    // between lines of the outputs
  uint32_t stored;  // bit l * (block's rows) + i: row i of line l is an output
  int64_t weights;  // where each column has its own weights (or accumulators): floats from a tap's to the next tap's
  Ahead* ahead;
};

// y (+)= taps: starts from *bias (by column: from bias[column]), or from y itself where bias is null.
using ConvBlock = void (*)(const Block& block, const float* weights, const float* bias, float* y, int64_t y_pitch);
// accumulators += gradient times shifted input, lane by lane.
using GradBlock = void (*)(const Block& block, const float* grad, int64_t grad_pitch, float* accumulators);

constexpr int kMaxRows = 16;  // rows of the tallest block
constexpr int kMaxVectors = 8;
constexpr int kMaxLines = 8;

// One instruction set. A null entry is not compiled: the registers would not hold it.
struct Kernels {
  int lanes;
  bool masks;  // loads can leave lanes out for nothing, so blocks without margins run too
  ConvBlock conv[kMaxVectors + 1][kMaxRows + 1];
  GradBlock grad[kMaxVectors + 1][kMaxRows + 1];
  // Blocks of 2, 4 or 8 lines and one vector, for lines of at most `line_rows` rows; 0 where there is none.
  int line_rows[kMaxLines + 1];
  ConvBlock conv_lines[kMaxLines + 1];
  GradBlock grad_lines[kMaxLines + 1];
  const Kernels* half;       // blocks of single vectors half as wide, or null
  const Kernels* second;     // blocks of single vectors that read every second column of their sources, or null
  const Kernels* by_column;  // blocks of single vectors with weights of their own for each column
  float (*sum)(const float* lanes);
  void (*copy)(const float* from, int64_t from_pitch, int64_t stride, float* to, int64_t to_pitch, int64_t rows,
               int64_t columns);
  void (*weave)(const float* even, const float* odd, int64_t from_pitch, float* to, int64_t to_pitch, int64_t rows,
                int64_t columns);
};

// Null where the build lacks it. The processor is asked by the caller, `find_kernels`: these functions may already hold
// instructions of their set.
const Kernels* kernels_avx512();
const Kernels* kernels_avx2();
const Kernels* kernels_portable();

}  // namespace atrous
