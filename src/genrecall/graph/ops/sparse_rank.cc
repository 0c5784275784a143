// SparseRank: what a request and its candidates are told of, hashed, looked up and pooled into the ranking network's
// sparse input, in one pass over the candidates (see sparse.h). The network itself is matrix products, TensorFlow's own.
#include <string>
#include <vector>

#include "checks.h"
#include "sparse.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace genrecall {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::tstring;

// Where a column's value comes from, and its place there.
enum ColumnSide : int64_t { kProfile = 0, kOfItem = 1, kUserId = 2, kHistory = 3 };

class SparseRankOp : public OpKernel {
 public:
  explicit SparseRankOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::vector<int64_t> salts, buckets, parts;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("kinds", &kinds_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("salts", &salts));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("buckets", &buckets));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("parts", &parts));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("part_counts", &part_counts_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("edge_counts", &edge_counts_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("code_counts", &code_counts_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("text_sides", &text_sides_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("text_places", &text_places_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("text_splits", &text_splits_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("number_sides", &number_sides_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("number_places", &number_places_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("likes", &likes_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("lasts", &lasts_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("item_id_column", &item_id_));
    const size_t count = kinds_.size();
    OP_REQUIRES(ctx, salts.size() == count && buckets.size() == count && part_counts_.size() == count &&
                         edge_counts_.size() == count && code_counts_.size() == count,
                Invalid("every feature needs all of its settings"));
    size_t at = 0;
    for (size_t f = 0; f < count; ++f) {
      SparseFeature feature;
      feature.kind = static_cast<SparseKind>(kinds_[f]);
      feature.salt = static_cast<uint64_t>(salts[f]);
      feature.buckets = static_cast<uint64_t>(buckets[f]);
      for (int64_t i = 0; i < part_counts_[f] && at < parts.size(); ++i) feature.parts.push_back(parts[at++]);
      OP_REQUIRES(ctx, !feature.parts.empty() && feature.buckets > 0, Invalid("every feature is of a column"));
      features_.push_back(feature);
    }
  }

  void Compute(OpKernelContext* ctx) override {
    OpInputList profiles, offsets, codes, numbers, tables;
    const Tensor *candidates, *history, *history_splits, *users, *edges, *vocabulary, *places;
    OP_REQUIRES_OK(ctx, ctx->input("candidates", &candidates));
    OP_REQUIRES_OK(ctx, ctx->input("history", &history));
    OP_REQUIRES_OK(ctx, ctx->input("history_splits", &history_splits));
    OP_REQUIRES_OK(ctx, ctx->input("users", &users));
    OP_REQUIRES_OK(ctx, ctx->input_list("profiles", &profiles));
    OP_REQUIRES_OK(ctx, ctx->input_list("item_offsets", &offsets));
    OP_REQUIRES_OK(ctx, ctx->input_list("item_codes", &codes));
    OP_REQUIRES_OK(ctx, ctx->input_list("item_numbers", &numbers));
    OP_REQUIRES_OK(ctx, ctx->input("edges", &edges));
    OP_REQUIRES_OK(ctx, ctx->input("vocabulary", &vocabulary));
    OP_REQUIRES_OK(ctx, ctx->input("vocabulary_rows", &places));
    OP_REQUIRES_OK(ctx, ctx->input_list("tables", &tables));
    OP_REQUIRES(ctx, candidates->dims() == 2, Invalid("candidates must be a matrix"));
    const int64_t rows = candidates->dim_size(0), k = candidates->dim_size(1);
    OP_REQUIRES_OK(ctx, RequireSplits(*history_splits, history->NumElements(), "history_splits"));
    OP_REQUIRES(ctx, history_splits->NumElements() == rows + 1, Invalid("history must have a row for each request"));
    OP_REQUIRES(ctx, tables.size() == static_cast<int>(features_.size()), Invalid("every feature needs a table"));
    const int64_t items = offsets[static_cast<int>(item_id_)].NumElements() - 1;

    std::vector<SparseFeature> features = features_;
    OP_REQUIRES_OK(ctx, Bind(*edges, *vocabulary, *places, &features));
    std::vector<int64_t> width;
    int64_t total = 0;
    for (const Tensor& table : tables) {
      OP_REQUIRES(ctx, table.dims() == 2 && table.dim_size(0) > 0, Invalid("tables must be matrices"));
      width.push_back(table.dim_size(1));
      total += width.back();
    }
    Tensor* embedded = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({rows, k, total}), &embedded));
    float* out = embedded->flat<float>().data();
    std::fill(out, out + embedded->NumElements(), 0.0f);

    const auto item_texts = [&](int64_t column, int64_t item) {
      const auto at = offsets[static_cast<int>(column)].flat<int64_t>();
      const auto* data = reinterpret_cast<const uint64_t*>(codes[static_cast<int>(column)].flat<int64_t>().data());
      return CodeSpan{data + at(item), static_cast<size_t>(at(item + 1) - at(item))};
    };
    std::vector<std::vector<std::vector<uint64_t>>> past(likes_.size());
    std::vector<std::vector<uint64_t>> told(text_sides_.size());
    std::vector<int64_t> known;
    std::vector<uint64_t> bag;
    SparseView view;
    view.texts.resize(text_sides_.size());
    view.numbers.resize(number_sides_.size());
    const auto view_item = [&](int64_t item) {
      for (size_t c = 0; c < text_sides_.size(); ++c) {
        if (text_sides_[c] == kOfItem) view.texts[c] = item_texts(text_places_[c], item);
      }
      for (size_t c = 0; c < number_sides_.size(); ++c) {
        if (number_sides_[c] == kOfItem) {
          view.numbers[c] = numbers[static_cast<int>(number_places_[c])].flat<double>()(item);
        }
      }
    };
    for (int64_t row = 0; row < rows; ++row) {
      known.clear();
      for (int64_t at = history_splits->vec<int64_t>()(row); at < history_splits->vec<int64_t>()(row + 1); ++at) {
        const int32_t item = history->flat<int32_t>()(at);
        if (item >= 0 && item < items) known.push_back(item);
      }
      for (size_t c = 0; c < text_sides_.size(); ++c) {
        told[c].clear();
        if (text_sides_[c] == kHistory && !known.empty()) {
          const CodeSpan id = item_texts(item_id_, known.back());
          told[c].assign(id.data, id.data + id.size);
        } else if (text_sides_[c] == kProfile || text_sides_[c] == kUserId) {
          const Tensor& texts = text_sides_[c] == kUserId ? *users : profiles[static_cast<int>(text_places_[c])];
          if (texts.NumElements() == rows) AppendCodes(texts.flat<tstring>()(row), text_splits_[c], &told[c]);
        }
        if (text_sides_[c] != kOfItem) view.texts[c] = {told[c].data(), told[c].size()};
      }
      for (size_t c = 0; c < number_sides_.size(); ++c) {
        if (number_sides_[c] == kHistory) view.numbers[c] = static_cast<double>(known.size());
        if (number_sides_[c] == kProfile) {
          const Tensor& texts = profiles[static_cast<int>(number_places_[c])];
          view.numbers[c] = texts.NumElements() == rows ? NumberOf(texts.flat<tstring>()(row)) : std::nan("");
        }
      }
      for (int64_t place = 0; place < k; ++place) {
        const int32_t item = candidates->flat<int32_t>()(row * k + place);
        if (item < 0 || item >= items) continue;
        view_item(item);
        float* into = out + (row * k + place) * total;
        for (size_t f = 0; f < features.size(); ++f) {
          RowsOf(features, features[f], view, &bag);
          const Tensor& table = tables[static_cast<int>(f)];
          OP_REQUIRES_OK(ctx, Pool(bag, table, into));
          into += width[f];
        }
      }
      for (size_t b = 0; b < likes_.size(); ++b) {
        past[b].emplace_back();
        const size_t newest = static_cast<size_t>(std::max<int64_t>(static_cast<int64_t>(known.size()) - lasts_[b], 0));
        for (size_t at = newest; at < known.size(); ++at) {
          view_item(known[at]);
          RowsOf(features, features[static_cast<size_t>(likes_[b])], view, &bag);
          past[b].back().insert(past[b].back().end(), bag.begin(), bag.end());
        }
      }
    }
    OpOutputList histories;
    OP_REQUIRES_OK(ctx, ctx->output_list("past", &histories));
    for (size_t b = 0; b < likes_.size(); ++b) {
      size_t longest = 1;
      for (const auto& one : past[b]) longest = std::max(longest, one.size());
      Tensor* padded = nullptr;
      OP_REQUIRES_OK(ctx, histories.allocate(static_cast<int>(b), TensorShape({rows, static_cast<int64_t>(longest)}), &padded));
      auto into = padded->matrix<int32_t>();
      into.setConstant(-1);
      for (int64_t row = 0; row < rows; ++row) {
        for (size_t i = 0; i < past[b][row].size(); ++i) into(row, i) = static_cast<int32_t>(past[b][row][i]);
      }
    }
  }

 private:
  // Where each feature's edges and vocabulary lie among all.
  absl::Status Bind(const Tensor& edges, const Tensor& vocabulary, const Tensor& places,
                    std::vector<SparseFeature>* features) const {
    int64_t edge = 0, code = 0;
    for (size_t f = 0; f < features->size(); ++f) {
      (*features)[f].edges = edges.flat<double>().data() + edge;
      (*features)[f].num_edges = edge_counts_[f];
      (*features)[f].codes = vocabulary.flat<int64_t>().data() + code;
      (*features)[f].places = places.flat<int32_t>().data() + code;
      (*features)[f].num_codes = code_counts_[f];
      edge += edge_counts_[f];
      code += code_counts_[f];
    }
    GENRECALL_REQUIRE(edge == edges.NumElements() && code == vocabulary.NumElements() && code == places.NumElements(),
                      "edges and vocabularies must be as many as the features say");
    return absl::OkStatus();
  }

  static absl::Status Pool(const std::vector<uint64_t>& bag, const Tensor& table, float* into) {
    const int64_t width = table.dim_size(1);
    const float* values = table.flat<float>().data();
    for (const uint64_t row : bag) {
      GENRECALL_REQUIRE(row < static_cast<uint64_t>(table.dim_size(0)), "a table has fewer rows than its feature");
      const float* from = values + static_cast<int64_t>(row) * width;
      for (int64_t i = 0; i < width; ++i) into[i] += from[i];
    }
    if (bag.size() > 1) {
      for (int64_t i = 0; i < width; ++i) into[i] /= static_cast<float>(bag.size());
    }
    return absl::OkStatus();
  }

  std::vector<SparseFeature> features_;
  std::vector<int64_t> kinds_, part_counts_, edge_counts_, code_counts_, text_sides_, text_places_, number_sides_,
      number_places_, likes_, lasts_;
  std::vector<std::string> text_splits_;
  int64_t item_id_ = 0;
};

REGISTER_OP("SparseRank")
    .Input("candidates: int32")
    .Input("history: int32")
    .Input("history_splits: int64")
    .Input("users: string")
    .Input("profiles: num_profiles * string")
    .Input("item_offsets: num_item_texts * int64")
    .Input("item_codes: num_item_texts * int64")
    .Input("item_numbers: num_item_numbers * double")
    .Input("edges: double")
    .Input("vocabulary: int64")
    .Input("vocabulary_rows: int32")
    .Input("tables: num_features * float")
    .Attr("num_profiles: int >= 0")
    .Attr("num_item_texts: int >= 1")
    .Attr("num_item_numbers: int >= 0")
    .Attr("num_features: int >= 1")
    .Attr("num_behaviours: int >= 0")
    .Attr("kinds: list(int)")
    .Attr("salts: list(int)")
    .Attr("buckets: list(int)")
    .Attr("parts: list(int)")
    .Attr("part_counts: list(int)")
    .Attr("edge_counts: list(int)")
    .Attr("code_counts: list(int)")
    .Attr("text_sides: list(int)")
    .Attr("text_places: list(int)")
    .Attr("text_splits: list(string)")
    .Attr("number_sides: list(int)")
    .Attr("number_places: list(int)")
    .Attr("likes: list(int)")
    .Attr("lasts: list(int)")
    .Attr("item_id_column: int")
    .Output("embedded: float")
    .Output("past: num_behaviours * int32")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      tensorflow::shape_inference::ShapeHandle candidates;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &candidates));
      const auto unknown = tensorflow::shape_inference::InferenceContext::kUnknownDim;
      c->set_output(0, c->MakeShape({c->Dim(candidates, 0), c->Dim(candidates, 1), c->UnknownDim()}));
      for (int i = 1; i < c->num_outputs(); ++i) c->set_output(i, c->Matrix(c->Dim(candidates, 0), unknown));
      return absl::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("SparseRank").Device(tensorflow::DEVICE_CPU), SparseRankOp);

}  // namespace
}  // namespace genrecall
