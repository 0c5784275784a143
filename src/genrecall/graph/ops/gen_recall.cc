// GenRecall: prompts in, items out; the search itself runs in an engine worker behind a Unix socket.
//
// Every row is a request of its own, so that the engine batches rows of all callers. A row that has no answer says why
// in its status and leaves the decision to the graph; only cancellation and malformed inputs fail the operator.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "engine_client.h"
#include "frame.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace genrecall {
namespace {

using tensorflow::AsyncOpKernel;
using tensorflow::CancellationManager;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::TensorShapeUtils;
using tensorflow::tstring;

enum RowStatus : int32_t { kOk = 0, kDeadline = 1, kUnavailable = 2, kRefused = 3, kWaiting = -1 };
enum RecallInput { kTokens, kSplits, kDeadlineMs, kK, kBeam, kExclude, kExcludeSplits, kUsers, kEngines,
                   kLeafSids, kLeafBegin, kLeafItems };

// What one execution of the operator waits for. Outlives the operator's context where replies come late.
class Call : public std::enable_shared_from_this<Call> {
 public:
  Call(OpKernelContext* ctx, AsyncOpKernel::DoneCallback done, std::string bundle, int64_t items_per_sid,
       int64_t state_width)
      : ctx_(ctx),
        done_(std::move(done)),
        bundle_(std::move(bundle)),
        items_per_sid_(items_per_sid),
        state_width_(state_width) {
    for (int i = 0; i < ctx->num_inputs(); ++i) inputs_.push_back(ctx->input(i));
  }

  absl::Status Prepare();
  void Start();

 private:
  struct Row {
    int tries = 0;
    uint64_t first = 0;  // of the engines, the one that was tried first
    EngineClient* engine = nullptr;
    uint64_t id = 0;
  };

  int64_t rows() const { return inputs_[kSplits].NumElements() - 1; }
  template <typename T>
  const T* Data(int input) const {
    return inputs_[input].flat<T>().data();
  }

  int32_t Dispatch(int64_t row);  // kWaiting, or why the row cannot be answered
  void OnOutcome(int64_t row, Outcome outcome, const Frame& frame);
  int32_t Write(int64_t row, const Frame& frame);
  void Append(int64_t row, int64_t leaf, float score, int64_t* found);
  void Close(int64_t row, int32_t status);
  void Cancel();
  void Finish();
  Clock::time_point Deadline(int64_t row) const;
  bool IsExcluded(int64_t row, int32_t item) const;

  OpKernelContext* ctx_;
  AsyncOpKernel::DoneCallback done_;
  const std::string bundle_;
  const int64_t items_per_sid_, state_width_;
  std::vector<Tensor> inputs_;
  const Clock::time_point begun_ = Clock::now();
  int64_t k_ = 0, beam_ = 0;
  Tensor *items_ = nullptr, *scores_ = nullptr, *status_ = nullptr, *state_ = nullptr;
  tensorflow::CancellationToken token_ = CancellationManager::kInvalidToken;

  std::mutex mu_;
  std::vector<Row> rows_;
  int64_t open_ = 0;
  bool finished_ = false;
};

absl::Status Call::Prepare() {
  TF_RETURN_IF_ERROR(RequireSplits(inputs_[kSplits], inputs_[kTokens].NumElements(), "row_splits"));
  const int64_t r = rows();
  const Tensor& exclude_splits = inputs_[kExcludeSplits];
  if (exclude_splits.NumElements() > 0) {
    TF_RETURN_IF_ERROR(RequireSplits(exclude_splits, inputs_[kExclude].NumElements(), "exclude_splits"));
    GENRECALL_REQUIRE(exclude_splits.NumElements() == r + 1, "exclude_splits must have as many rows as the prompts");
  }
  const int64_t users = inputs_[kUsers].NumElements(), deadlines = inputs_[kDeadlineMs].NumElements();
  GENRECALL_REQUIRE(users == 0 || users == r, "users must be empty or one for each of ", r, " rows; seen ", users);
  GENRECALL_REQUIRE(deadlines == 1 || deadlines == r, "deadline_ms must be one, or one for each row; seen ", deadlines);
  GENRECALL_REQUIRE(inputs_[kEngines].NumElements() > 0, "engines must name at least one socket");
  GENRECALL_REQUIRE(inputs_[kK].NumElements() == 1 && inputs_[kBeam].NumElements() == 1, "k and beam must be one number each");
  k_ = Data<int32_t>(kK)[0];
  beam_ = std::max<int64_t>(Data<int32_t>(kBeam)[0], k_);
  const Tensor &leaves = inputs_[kLeafSids], &begin = inputs_[kLeafBegin], &owners = inputs_[kLeafItems];
  GENRECALL_REQUIRE(leaves.dims() == 2 && begin.NumElements() == leaves.dim_size(0) + 1, "leaf_begin must fit leaf_sids");
  const int64_t num_items = owners.NumElements();
  GENRECALL_REQUIRE(1 <= k_ && k_ <= num_items, "k must be 1 to ", num_items, ", the size of the catalog; seen ", k_);
  GENRECALL_REQUIRE(begin.flat<int32_t>()(begin.NumElements() - 1) == num_items, "leaf_begin must end at the number of items");
  for (int64_t i = 0; i < inputs_[kExclude].NumElements(); ++i) {
    const int32_t item = Data<int32_t>(kExclude)[i];
    GENRECALL_REQUIRE(item >= -1 && item < num_items, "exclude must hold item indices below ", num_items, "; seen ", item);
  }
  const TensorShape lists({r, k_});
  TF_RETURN_IF_ERROR(ctx_->allocate_output(0, lists, &items_));
  TF_RETURN_IF_ERROR(ctx_->allocate_output(1, lists, &scores_));
  TF_RETURN_IF_ERROR(ctx_->allocate_output(2, TensorShape({r}), &status_));
  TF_RETURN_IF_ERROR(ctx_->allocate_output(3, TensorShape({r, state_width_}), &state_));
  state_->flat<float>().setConstant(std::numeric_limits<float>::quiet_NaN());
  items_->flat<int32_t>().setConstant(-1);
  scores_->flat<float>().setConstant(-std::numeric_limits<float>::infinity());
  rows_.resize(static_cast<size_t>(r));
  open_ = r;
  return absl::OkStatus();
}

void Call::Start() {
  CancellationManager* cancellation = ctx_->cancellation_manager();
  if (cancellation != nullptr) {
    token_ = cancellation->get_cancellation_token();
    auto self = shared_from_this();
    if (!cancellation->RegisterCallback(token_, [self] { self->Cancel(); })) {
      ctx_->SetStatus(absl::CancelledError("GenRecall was cancelled before it began"));
      done_();
      return;
    }
  }
  const int64_t r = rows();
  // Until all are sent, one more is open, so that no early reply finishes the call.
  {
    std::lock_guard<std::mutex> lock(mu_);
    ++open_;
  }
  for (int64_t row = 0; row < r; ++row) {
    const int32_t status = Dispatch(row);
    if (status != kWaiting) Close(row, status);
  }
  Close(-1, kOk);
}

Clock::time_point Call::Deadline(int64_t row) const {
  const float ms = Data<float>(kDeadlineMs)[inputs_[kDeadlineMs].NumElements() == 1 ? 0 : row];
  if (!(ms > 0) || ms > 1e9f) return Clock::time_point::max();
  return begun_ + std::chrono::microseconds(static_cast<int64_t>(double{ms} * 1e3));
}

bool Call::IsExcluded(int64_t row, int32_t item) const {
  if (inputs_[kExcludeSplits].NumElements() == 0) return false;
  const int64_t* splits = Data<int64_t>(kExcludeSplits);
  const int32_t* excluded = Data<int32_t>(kExclude);
  return std::find(excluded + splits[row], excluded + splits[row + 1], item) != excluded + splits[row + 1];
}

int32_t Call::Dispatch(int64_t row) {
  const int64_t* splits = Data<int64_t>(kSplits);
  Ask ask;
  ask.tokens = Data<int32_t>(kTokens) + splits[row];
  ask.num_tokens = splits[row + 1] - splits[row];
  ask.beam = beam_;
  ask.bundle = bundle_;
  ask.state = state_width_ > 0;
  const int64_t num_items = inputs_[kLeafItems].NumElements();
  if (inputs_[kExcludeSplits].NumElements() > 0) {
    const int64_t* ends = Data<int64_t>(kExcludeSplits);
    const int32_t* exclude = Data<int32_t>(kExclude);
    for (int64_t at = ends[row]; at < ends[row + 1]; ++at) {
      if (exclude[at] < 0) continue;
      if (ask.allowed.empty()) {
        ask.allowed.assign(static_cast<size_t>((num_items + 7) / 8), '\xff');
        if (num_items % 8) ask.allowed.back() = static_cast<char>(0xff << (8 - num_items % 8));
        ask.num_items = num_items;
      }
      ask.allowed[static_cast<size_t>(exclude[at] / 8)] &= static_cast<char>(~(0x80 >> (exclude[at] % 8)));
    }
  }
  if (inputs_[kUsers].NumElements() > 0) {
    ask.user = Data<tstring>(kUsers)[row];
    std::string written;
    if (!Quote(ask.user, &written)) return kRefused;
  }
  const auto deadline = Deadline(row);
  const bool bounded = deadline != Clock::time_point::max();
  // A user stays with one engine while it runs, because that one keeps the user's prompt; others take turns.
  static std::atomic<uint64_t> turn{0};
  const uint64_t engines = static_cast<uint64_t>(inputs_[kEngines].NumElements());
  uint64_t first = 0;
  int tries = 0;
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (finished_) return kUnavailable;
    tries = rows_[row].tries++;
    if (tries == 0) rows_[row].first = ask.user.empty() ? turn++ : std::hash<std::string>()(ask.user);
    first = rows_[row].first + static_cast<uint64_t>(tries);
  }
  for (uint64_t next = 0; next < engines; ++next) {
    const double left = std::chrono::duration<double>(deadline - Clock::now()).count();
    if (bounded && left <= 0) return kDeadline;
    ask.timeout_s = bounded ? left : 0;
    EngineClient* engine = EngineClient::Of(Data<tstring>(kEngines)[(first + next) % engines]);
    auto self = shared_from_this();
    const uint64_t id = engine->Send(ask, deadline, [self, row](Outcome outcome, const Frame& frame) {
      self->OnOutcome(row, outcome, frame);
    });
    if (id == 0) continue;
    std::unique_lock<std::mutex> lock(mu_);
    if (!finished_) {
      // A reply may have come already, or a second try begun: then this number is only stale.
      if (rows_[row].tries == tries + 1) rows_[row].engine = engine, rows_[row].id = id;
    } else {
      lock.unlock();
      engine->Cancel(id);
    }
    return kWaiting;
  }
  return kUnavailable;
}

void Call::OnOutcome(int64_t row, Outcome outcome, const Frame& frame) {
  if (outcome == Outcome::kLate) return Close(row, kDeadline);
  if (outcome == Outcome::kLost) {
    bool again = false;
    {
      std::lock_guard<std::mutex> lock(mu_);
      again = !finished_ && rows_[row].tries < 2;
    }
    // Once more, where there is time: another engine may run, or this one again. A request that ends engines ends two.
    const int32_t status = again ? Dispatch(row) : static_cast<int32_t>(kUnavailable);
    if (status != kWaiting) Close(row, status);
    return;
  }
  int32_t status = kRefused;
  if (frame.kind == "answer") {
    std::lock_guard<std::mutex> lock(mu_);
    if (finished_) return;
    status = Write(row, frame);
  } else if (frame.error == "TimeoutError") {
    status = kDeadline;
  } else {
    LOG_EVERY_N_SEC(WARNING, 1) << "the engine refused a request: " << frame.error << ": " << frame.what;
  }
  Close(row, status);
}

// The items of the SIDs that were answered; `mu_` is held.
int32_t Call::Write(int64_t row, const Frame& frame) {
  const FrameArray* sids = frame.Find("sids", ArrayType::kInt32, 2);
  const FrameArray* scores = frame.Find("scores", ArrayType::kFloat32, 1);
  const int64_t levels = inputs_[kLeafSids].dim_size(1), leaves = inputs_[kLeafSids].dim_size(0);
  if (sids == nullptr || scores == nullptr || sids->shape[0] != scores->shape[0]) return kRefused;
  if (sids->shape[0] > 0 && sids->shape[1] != levels) return kRefused;
  const FrameArray* state = state_width_ > 0 ? frame.Find("state", ArrayType::kFloat32, 1) : nullptr;
  if (state != nullptr && state->count == state_width_) {
    std::memcpy(state_->flat<float>().data() + row * state_width_, state->data, static_cast<size_t>(state_width_) * 4);
  }
  const int32_t* table = Data<int32_t>(kLeafSids);
  std::vector<int32_t> sid(static_cast<size_t>(levels));
  int64_t found = 0;
  for (int64_t i = 0; i < sids->shape[0] && found < k_; ++i) {
    std::memcpy(sid.data(), sids->data + i * levels * 4, static_cast<size_t>(levels) * 4);
    int64_t low = 0, high = leaves;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      const int32_t* at = table + middle * levels;
      if (std::lexicographical_compare(at, at + levels, sid.begin(), sid.end())) low = middle + 1;
      else high = middle;
    }
    if (low == leaves || !std::equal(sid.begin(), sid.end(), table + low * levels)) continue;
    float score = 0;
    std::memcpy(&score, scores->data + i * 4, 4);
    Append(row, low, score, &found);
  }
  return kOk;
}

void Call::Append(int64_t row, int64_t leaf, float score, int64_t* found) {
  const int32_t* begin = Data<int32_t>(kLeafBegin);
  const int32_t* owners = Data<int32_t>(kLeafItems);
  int64_t of_sid = 0;
  for (int32_t at = begin[leaf]; at < begin[leaf + 1] && *found < k_; ++at) {
    if (IsExcluded(row, owners[at])) continue;
    if (items_per_sid_ > 0 && of_sid++ == items_per_sid_) return;
    items_->flat<int32_t>()(row * k_ + *found) = owners[at];
    scores_->flat<float>()(row * k_ + *found) = score;
    ++*found;
  }
}

void Call::Close(int64_t row, int32_t status) {
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (finished_) return;
    if (row >= 0) status_->flat<int32_t>()(row) = status;
    if (--open_ > 0) return;
    finished_ = true;
  }
  Finish();
}

void Call::Cancel() {
  std::vector<Row> rows;
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (finished_) return;
    finished_ = true;
    rows.swap(rows_);
  }
  for (const Row& row : rows) {
    if (row.id != 0) row.engine->Cancel(row.id);
  }
  ctx_->SetStatus(absl::CancelledError("GenRecall was cancelled"));
  done_();
}

void Call::Finish() {
  // Waits for a cancellation that runs just now; that one finds the call finished and returns at once.
  if (token_ != CancellationManager::kInvalidToken) ctx_->cancellation_manager()->DeregisterCallback(token_);
  done_();
}

class GenRecallOp : public AsyncOpKernel {
 public:
  explicit GenRecallOp(OpKernelConstruction* ctx) : AsyncOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("bundle", &bundle_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("items_per_sid", &items_per_sid_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("state_width", &state_width_));
  }

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    auto call = std::make_shared<Call>(ctx, done, bundle_, items_per_sid_, state_width_);
    OP_REQUIRES_OK_ASYNC(ctx, call->Prepare(), done);
    call->Start();
  }

 private:
  std::string bundle_;
  int64_t items_per_sid_ = 0, state_width_ = 0;
};

REGISTER_OP("GenRecall")
    .Input("tokens: int32")
    .Input("row_splits: int64")
    .Input("deadline_ms: float")
    .Input("k: int32")
    .Input("beam: int32")
    .Input("exclude: int32")
    .Input("exclude_splits: int64")
    .Input("users: string")
    .Input("engines: string")
    .Input("leaf_sids: int32")
    .Input("leaf_begin: int32")
    .Input("leaf_items: int32")
    .Attr("bundle: string = ''")
    .Attr("items_per_sid: int >= 0 = 0")
    .Attr("state_width: int >= 0 = 0")
    .Output("items: int32")
    .Output("scores: float")
    .Output("status: int32")
    .Output("state: float")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      using tensorflow::shape_inference::DimensionHandle;
      using tensorflow::shape_inference::ShapeHandle;
      ShapeHandle splits;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(kSplits), 1, &splits));
      DimensionHandle rows, k;
      int64_t width = 0;
      TF_RETURN_IF_ERROR(c->GetAttr("state_width", &width));
      TF_RETURN_IF_ERROR(c->Subtract(c->Dim(splits, 0), 1, &rows));
      TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(kK, &k));
      c->set_output(0, c->Matrix(rows, k));
      c->set_output(1, c->Matrix(rows, k));
      c->set_output(2, c->Vector(rows));
      c->set_output(3, c->Matrix(rows, c->MakeDim(width)));
      return absl::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("GenRecall").Device(tensorflow::DEVICE_CPU), GenRecallOp);

}  // namespace
}  // namespace genrecall
