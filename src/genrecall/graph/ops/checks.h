// What operators refuse, in one wording.
#ifndef GENRECALL_CHECKS_H_
#define GENRECALL_CHECKS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/tensor.h"

namespace genrecall {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

#define GENRECALL_REQUIRE(condition, ...) \
  if (!(condition)) return ::genrecall::Invalid(__VA_ARGS__)

// Row splits of a ragged tensor: rising from 0 to the number of its values.
inline absl::Status RequireSplits(const tensorflow::Tensor& splits, int64_t values, const char* name) {
  GENRECALL_REQUIRE(splits.dims() == 1 && splits.NumElements() >= 1, name, " must be a vector of at least one number");
  const auto at = splits.vec<int64_t>();
  bool rises = at(0) == 0 && at(at.size() - 1) == values;
  for (int64_t i = 1; rises && i < at.size(); ++i) rises = at(i) >= at(i - 1);
  GENRECALL_REQUIRE(rises, name, " must rise from 0 to ", values, ", the number of values");
  return absl::OkStatus();
}

}  // namespace genrecall

#endif  // GENRECALL_CHECKS_H_
