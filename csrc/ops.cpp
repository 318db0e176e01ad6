// The registered operations: checks, then raw pointers. `atrous/_ops` holds every other torch contract.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/taps.h"
#include "kernels/transpose.h"

namespace {

using atrous::Problem;
using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void parallel(int64_t items, int64_t grain, const atrous::Body& body) {
  torch::stable::parallel_for(0, items, grain, body);
}

Tensor checked(const char* op, const char* name, const Tensor& tensor, ScalarType type) {
  STD_TORCH_CHECK(tensor.is_cpu(), op, ": ", name, ": expected to be on the CPU, as the input");
  STD_TORCH_CHECK(tensor.scalar_type() == type, op, ": ", name, ": expected ",
                  type == ScalarType::Int ? "int32" : "the input's dtype");
  return tensor;
}

// Calls use(T{}) with the element type of the tensor.
template <class Use>
Tensor by_element(const char* op, const Tensor& tensor, const Use& use) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return use(float{});
    case ScalarType::Double:
      return use(double{});
    case ScalarType::BFloat16:
      return use(atrous::BFloat16{});
    case ScalarType::Half:
      return use(atrous::Float16{});
    default:
      STD_TORCH_CHECK(false, op, ": input: expected float32, float64, bfloat16 or float16");
  }
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

// The strides of (B, C, *S) that lies in memory as (B, *S, C).
std::vector<int64_t> strides_of_last(IntHeaderOnlyArrayRef sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t apart = 1;
  const auto place = [&](size_t a) {
    strides[a] = apart;
    apart *= std::max<int64_t>(sizes[a], 1);
  };
  place(1);
  for (size_t a = sizes.size() - 1; a > 1; --a) place(a);
  place(0);
  return strides;
}

// Whether (B, C, *S) lies in memory as (B, *S, C), and not as (B, C, *S) too. `_ops/tap_conv.py` says the same.
bool channels_last(const Tensor& tensor) {
  if (tensor.dim() < 3 || tensor.is_contiguous()) return false;
  const IntHeaderOnlyArrayRef sizes = tensor.sizes(), strides = tensor.strides();
  const std::vector<int64_t> last = strides_of_last(sizes);
  for (size_t a = 0; a < sizes.size(); ++a) {
    if (sizes[a] != 1 && strides[a] != last[a]) return false;
  }
  return true;
}

// A tensor on the CPU with channels last in memory. Straight through the ABI: a call by name costs microseconds.
Tensor empty_last(const std::vector<int64_t>& sizes, const Tensor& like) {
  const std::vector<int64_t> strides = strides_of_last(sizes);
  int32_t dtype = 0;
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype, aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

// Moves the channels of (B, C, *S) behind the pixels in memory, or back; torch's copy takes up to twice as long.
void exchange(const Tensor& from, const Tensor& to, bool last) {
  const int64_t batch = from.size(0), channels = from.size(1);
  const int64_t pixels = batch * channels > 0 ? from.numel() / (batch * channels) : 0;
  const int64_t bytes = from.scalar_type() == ScalarType::Double                                           ? 8
                        : from.scalar_type() == ScalarType::Float || from.scalar_type() == ScalarType::Int ? 4
                                                                                                           : 2;
  atrous::transpose(batch, last ? channels : pixels, last ? pixels : channels, bytes, from.const_data_ptr(),
                    to.mutable_data_ptr(), parallel);
}

// The same pixels with channels last in memory.
Tensor with_channels_last(const Tensor& tensor) {
  if (channels_last(tensor)) return tensor;
  Tensor moved = empty_last({tensor.sizes().begin(), tensor.sizes().end()}, tensor);
  if (!tensor.is_contiguous()) return torch::stable::copy_(moved, tensor);
  exchange(tensor, moved, true);
  return moved;
}

Tensor plain(const char* op, const char* name, const Tensor& tensor, ScalarType type) {
  const Tensor& t = checked(op, name, tensor, type);
  if (t.is_contiguous()) return t;
  if (!channels_last(t)) return torch::stable::contiguous(t);
  Tensor moved = torch::stable::new_empty(t, t.sizes());
  exchange(t, moved, false);
  return moved;
}

template <class T>
const atrous::Kernels<T>& kernels(const char* op, const std::string& isa) {
  const atrous::Kernels<T>* found = atrous::find_kernels<T>(isa.c_str());
  STD_TORCH_CHECK(found, op, ": isa: got '", isa, "', which is unknown or not supported by this processor");
  return *found;
}

// `groups` and the channels are those of a weight (D, C / groups, T) on an input (B, C, *in) and an output of *out.
Problem problem(const char* op, const Tensor& input, const Tensor& offsets, int64_t groups, int64_t out_channels,
                const std::vector<int64_t>& out, const std::vector<int64_t>& stride,
                const std::vector<int64_t>& upsample) {
  const int64_t axes = input.dim() - 2;
  STD_TORCH_CHECK(axes >= 1 && axes <= 3, op, ": input: expected (B, C, *S) with 1 to 3 axes");
  const auto n = static_cast<size_t>(axes);
  STD_TORCH_CHECK(stride.size() == n && upsample.size() == n && out.size() == n, op,
                  ": stride, upsample, output_size: expected one entry per axis");
  STD_TORCH_CHECK(groups > 0 && input.size(1) % groups == 0 && out_channels % groups == 0, op,
                  ": groups: expected to divide the channels");
  Problem p{};
  p.batch = input.size(0);
  p.groups = groups;
  p.in_channels = input.size(1) / groups;
  p.out_channels = out_channels / groups;
  p.axes = static_cast<int>(axes);
  for (size_t a = 0; a < n; ++a) {
    STD_TORCH_CHECK(stride[a] > 0 && stride[a] <= INT32_MAX && upsample[a] > 0 && upsample[a] <= INT32_MAX, op,
                    ": expected a stride and upsample of 1 to 2^31 - 1");
    STD_TORCH_CHECK(out[a] >= 0, op, ": expected no negative output_size");
    STD_TORCH_CHECK(input.size(static_cast<int64_t>(a) + 2) <= INT32_MAX && out[a] <= INT32_MAX, op,
                    ": expected axes of less than 2^31 pixels");
    p.axis[4 - n + a] = {input.size(static_cast<int64_t>(a) + 2), out[a], stride[a], upsample[a]};
  }
  p.per_pair = offsets.dim() == 4;
  STD_TORCH_CHECK(offsets.dim() == (p.per_pair ? 4 : 2) && offsets.size(-1) == axes, op,
                  ": offsets: expected (T, N) or (D, C/groups, T, N)");
  STD_TORCH_CHECK(!p.per_pair || (offsets.size(0) == out_channels && offsets.size(1) == p.in_channels), op,
                  ": offsets: expected (D, C/groups, T, N)");
  p.taps = offsets.size(-2);
  p.offsets = offsets.const_data_ptr<int32_t>();
  return p;
}

// Whether the kernels take channels last in memory: those that have all the same offsets and do not mix.
bool by_column(const Problem& p) { return !p.per_pair && p.in_channels == 1 && p.out_channels == 1; }

Problem columns_of(Problem p) {
  for (int a = 0; a < 3; ++a) p.axis[a] = p.axis[a + 1];
  p.axis[3] = {p.groups, p.groups, 1, 1};
  p.groups = 1;
  p.channels_last = true;
  return p;
}

Tensor tap_conv(const Tensor& input, const Tensor& weight_, const Tensor& offsets_, const std::optional<Tensor>& bias_,
                std::vector<int64_t> stride, std::vector<int64_t> upsample, std::vector<int64_t> output_size,
                std::string isa) {
  const char* op = "tap_conv";
  const ScalarType type = input.scalar_type();
  const Tensor weight = plain(op, "weight", weight_, type);
  const Tensor offsets = plain(op, "offsets", offsets_, ScalarType::Int);
  STD_TORCH_CHECK(weight.dim() >= 3 && weight.size(1) > 0, op, ": weight: expected (D, C/groups, *K)");
  const Problem p =
      problem(op, input, offsets, input.size(1) / weight.size(1), weight.size(0), output_size, stride, upsample);
  int64_t taps = 1;
  for (int64_t a = 2; a < weight.dim(); ++a) taps *= weight.size(a);
  STD_TORCH_CHECK(weight.size(1) == p.in_channels && taps == p.taps, op,
                  ": weight: expected (D, C/groups, *K), as many taps as offsets");
  std::optional<Tensor> bias;
  if (bias_) {
    bias = plain(op, "bias", *bias_, type);
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0), op, ": bias: expected (D,)");
  }
  const bool last = channels_last(input), columns = last && by_column(p);
  const Tensor x = columns ? input : plain(op, "input", input, type);
  std::vector<int64_t> shape{p.batch, weight.size(0)};
  shape.insert(shape.end(), output_size.begin(), output_size.end());
  Tensor y = columns ? empty_last(shape, input) : torch::stable::new_empty(input, shape);
  y = by_element(op, input, [&]<class T>(T) {
    atrous::tap_conv(columns ? columns_of(p) : p, data<T>(x), data<T>(weight), bias ? data<T>(*bias) : nullptr,
                     static_cast<T*>(y.mutable_data_ptr()), kernels<T>(op, isa), parallel);
    return y;
  });
  return last ? with_channels_last(y) : y;
}

Tensor tap_conv_weight(const Tensor& grad_, const Tensor& input, const Tensor& offsets_, std::vector<int64_t> stride,
                       std::vector<int64_t> upsample, int64_t groups, std::string isa) {
  const char* op = "tap_conv_weight";
  const ScalarType type = input.scalar_type();
  const Tensor& grad = checked(op, "grad", grad_, type);
  const Tensor offsets = plain(op, "offsets", offsets_, ScalarType::Int);
  STD_TORCH_CHECK(grad.dim() == input.dim() && grad.dim() >= 3 && grad.size(0) == input.size(0), op,
                  ": grad: expected (B, D, *P) beside an input (B, C, *S)");
  std::vector<int64_t> out;
  for (int64_t a = 2; a < grad.dim(); ++a) out.push_back(grad.size(a));
  const Problem p = problem(op, input, offsets, groups, grad.size(1), out, stride, upsample);
  const bool columns = by_column(p) && (channels_last(input) || channels_last(grad));
  const auto laid_out = [&](const Tensor& t) { return columns ? with_channels_last(t) : plain(op, "", t, type); };
  const Tensor g = laid_out(grad), x = laid_out(input);
  Tensor result = torch::stable::new_empty(input, {grad.size(1), p.in_channels, p.taps});
  return by_element(op, input, [&]<class T>(T) {
    atrous::tap_conv_weight(columns ? columns_of(p) : p, data<T>(g), data<T>(x),
                            static_cast<T*>(result.mutable_data_ptr()), kernels<T>(op, isa), parallel);
    return result;
  });
}

}  // namespace

STABLE_TORCH_LIBRARY(atrous, m) {
  m.def(
      "tap_conv(Tensor input, Tensor weight, Tensor offsets, Tensor? bias, int[] stride, int[] upsample, "
      "SymInt[] output_size, str isa='') -> Tensor");
  m.def(
      "tap_conv_weight(Tensor grad, Tensor input, Tensor offsets, int[] stride, int[] upsample, int groups, "
      "str isa='') -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(atrous, CPU, m) {
  m.impl("tap_conv", TORCH_BOX(&tap_conv));
  m.impl("tap_conv_weight", TORCH_BOX(&tap_conv_weight));
}
