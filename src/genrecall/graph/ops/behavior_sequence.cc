// BehaviorSequence: ragged events to prompts, row by row (see sequence.h).
#include <algorithm>
#include <string>
#include <vector>

#include "checks.h"
#include "sequence.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace genrecall {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

enum SequenceInput { kEventItems, kEventTimes, kEventSplits, kNow, kHead, kHeadSplits, kPieces };

class BehaviorSequenceOp : public OpKernel {
 public:
  explicit BehaviorSequenceOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string deduplicate;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_items", &settings_.max_items));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("deduplicate", &deduplicate));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("newest_first", &settings_.newest_first));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("sort", &settings_.sort));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("sessions", &settings_.sessions));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("window_s", &settings_.window_s));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_tokens", &settings_.max_tokens));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("separator", &settings_.separator));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("session_offset", &settings_.session_offset));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("joiner", &settings_.joiner));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("tail", &settings_.tail));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("empty_tail", &settings_.empty_tail));
    if (deduplicate == "first") settings_.deduplicate = Deduplicate::kFirst;
    if (deduplicate == "last") settings_.deduplicate = Deduplicate::kLast;
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor &items = ctx->input(kEventItems), &times = ctx->input(kEventTimes), &now = ctx->input(kNow);
    const Tensor &splits = ctx->input(kEventSplits), &head_splits = ctx->input(kHeadSplits), &table = ctx->input(kPieces);
    OP_REQUIRES_OK(ctx, RequireSplits(splits, items.NumElements(), "row_splits"));
    const int64_t rows = splits.NumElements() - 1;
    // One head may stand for all rows.
    const bool one_head = head_splits.NumElements() == 0;
    if (!one_head) {
      OP_REQUIRES_OK(ctx, RequireSplits(head_splits, ctx->input(kHead).NumElements(), "head_splits"));
      OP_REQUIRES(ctx, head_splits.NumElements() == rows + 1,
                  Invalid("heads must be empty or one for each of ", rows, " rows"));
    }
    OP_REQUIRES(ctx, times.NumElements() == 0 || times.NumElements() == items.NumElements(),
                Invalid("times must be empty or one for each of ", items.NumElements(),
                                        " events; seen ", times.NumElements()));
    OP_REQUIRES(ctx, settings_.window_s == 0 || items.NumElements() == 0 || times.NumElements() > 0,
                Invalid("a time window needs the times of the events"));
    OP_REQUIRES(ctx, now.NumElements() == 1 || now.NumElements() == rows,
                Invalid("now must be one, or one for each of ", rows, " rows"));
    OP_REQUIRES(ctx, table.dims() == 2, Invalid("pieces must be a matrix"));
    const Pieces pieces{table.flat<int32_t>().data(), table.dim_size(0), table.dim_size(1)};

    Tensor *written = nullptr, *token_splits = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, TensorShape({rows + 1}), &token_splits));
    token_splits->vec<int64_t>()(0) = 0;
    std::vector<int32_t> tokens;
    std::vector<int64_t> kept;
    const auto at = splits.vec<int64_t>();
    const int32_t* all = items.flat<int32_t>().data();
    const int64_t* moments = times.NumElements() == 0 ? nullptr : times.flat<int64_t>().data();
    const int32_t* heads = ctx->input(kHead).flat<int32_t>().data();
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t begin = at(row);
      const Events events{all + begin, moments == nullptr ? nullptr : moments + begin, at(row + 1) - begin};
      Shown(settings_, pieces, events, now.flat<int64_t>()(now.NumElements() == 1 ? 0 : row), &kept);
      const int64_t head_begin = one_head ? 0 : head_splits.flat<int64_t>()(row);
      const int64_t head_end = one_head ? ctx->input(kHead).NumElements() : head_splits.flat<int64_t>()(row + 1);
      OP_REQUIRES(ctx, WriteSequence(settings_, pieces, events, heads + head_begin, head_end - head_begin, &kept, &tokens),
                  Invalid("a prompt without any history is longer than the model's window of ",
                                          settings_.max_tokens, " tokens"));
      token_splits->vec<int64_t>()(row + 1) = static_cast<int64_t>(tokens.size());
    }
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({static_cast<int64_t>(tokens.size())}), &written));
    std::copy(tokens.begin(), tokens.end(), written->flat<int32_t>().data());
  }

 private:
  SequenceSettings settings_;
};

REGISTER_OP("BehaviorSequence")
    .Input("items: int32")
    .Input("times: int64")
    .Input("row_splits: int64")
    .Input("now: int64")
    .Input("head: int32")
    .Input("head_splits: int64")
    .Input("pieces: int32")
    .Attr("max_items: int")
    .Attr("deduplicate: {'none', 'first', 'last'} = 'none'")
    .Attr("newest_first: bool = false")
    .Attr("sort: bool = false")
    .Attr("sessions: bool = false")
    .Attr("window_s: int = 0")
    .Attr("max_tokens: int = 0")
    .Attr("separator: int = -1")
    .Attr("session_offset: int = 0")
    .Attr("joiner: list(int) = []")
    .Attr("tail: list(int) = []")
    .Attr("empty_tail: list(int) = []")
    .Output("tokens: int32")
    .Output("token_splits: int64")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      tensorflow::shape_inference::ShapeHandle splits;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(kEventSplits), 1, &splits));
      c->set_output(0, c->Vector(tensorflow::shape_inference::InferenceContext::kUnknownDim));
      c->set_output(1, splits);
      return absl::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("BehaviorSequence").Device(tensorflow::DEVICE_CPU), BehaviorSequenceOp);

}  // namespace
}  // namespace genrecall
