// Columns to rows of embedding tables, as docs/concepts/ranking.md defines them: the hash, the number of a text, bags.
//
//   row = 1 + fold(salt(f); codes) mod buckets,   bag(f) = rows of all values, or [0]
//
// Plain C++ over spans; equal bit by bit to the Python that training uses.
#ifndef GENRECALL_SPARSE_H_
#define GENRECALL_SPARSE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

namespace genrecall {

inline uint64_t Fnv(const char* data, size_t size) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < size; ++i) h = (h ^ static_cast<unsigned char>(data[i])) * 0x100000001b3u;
  return h;
}

inline uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

inline uint64_t CodeOf(const char* data, size_t size) { return Mix(Fnv(data, size)); }

// The number that a text is, [+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)? from end to end; NaN where it is none.
inline double NumberOf(const std::string& text) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const char* at = text.c_str();
  const auto digits = [&at] {
    const char* begin = at;
    while (*at >= '0' && *at <= '9') ++at;
    return at != begin;
  };
  if (*at == '+' || *at == '-') ++at;
  if (!digits()) return none;
  if (*at == '.') ++at, digits();
  if (*at == 'e' || *at == 'E') {
    ++at;
    if (*at == '+' || *at == '-') ++at;
    if (!digits()) return none;
  }
  return at == text.c_str() + text.size() ? std::strtod(text.c_str(), nullptr) : none;
}

// Codes of a text's values: itself, or its pieces between occurrences of `split` without spaces at their ends.
inline void AppendCodes(const std::string& text, const std::string& split, std::vector<uint64_t>* out) {
  if (split.empty()) {
    if (!text.empty()) out->push_back(CodeOf(text.data(), text.size()));
    return;
  }
  for (size_t begin = 0; begin <= text.size();) {
    const size_t found = text.find(split, begin);
    size_t first = begin, last = found == std::string::npos ? text.size() : found;
    begin = found == std::string::npos ? text.size() + 1 : found + split.size();
    while (first < last && text[first] == ' ') ++first;
    while (last > first && text[last - 1] == ' ') --last;
    if (first < last) out->push_back(CodeOf(text.data() + first, last - first));
  }
}

enum class SparseKind : int64_t { kHashed = 0, kVocabulary = 1, kBucketed = 2, kCrossed = 3 };

struct SparseFeature {
  SparseKind kind = SparseKind::kHashed;
  uint64_t salt = 0;
  uint64_t buckets = 1;
  std::vector<int64_t> parts;               // text columns; -1 - f: the bucketed feature f. Of a bucketed one: its number
  const double* edges = nullptr;            // ascending
  int64_t num_edges = 0;
  const int64_t* codes = nullptr;           // of the vocabulary, ascending as unsigned numbers
  const int32_t* places = nullptr;          // their rows
  int64_t num_codes = 0;
};

struct CodeSpan {
  const uint64_t* data = nullptr;
  size_t size = 0;
};

// What is told of one candidate of one request, by column.
struct SparseView {
  std::vector<CodeSpan> texts;
  std::vector<double> numbers;
};

inline uint64_t BucketRow(const SparseFeature& feature, double number) {
  if (!std::isfinite(number)) return 0;
  return 1 + static_cast<uint64_t>(std::upper_bound(feature.edges, feature.edges + feature.num_edges, number) - feature.edges);
}

// The rows of one feature; `rows` is overwritten and never left empty.
inline void RowsOf(const std::vector<SparseFeature>& features, const SparseFeature& feature, const SparseView& view,
                   std::vector<uint64_t>* rows) {
  rows->clear();
  if (feature.kind == SparseKind::kBucketed) {
    rows->push_back(BucketRow(feature, view.numbers[static_cast<size_t>(feature.parts[0])]));
    return;
  }
  if (feature.kind == SparseKind::kVocabulary) {
    const CodeSpan told = view.texts[static_cast<size_t>(feature.parts[0])];
    const uint64_t* codes = reinterpret_cast<const uint64_t*>(feature.codes);
    for (size_t i = 0; i < told.size; ++i) {
      const uint64_t* at = std::lower_bound(codes, codes + feature.num_codes, told.data[i]);
      const bool known = at != codes + feature.num_codes && *at == told.data[i];
      rows->push_back(known ? static_cast<uint64_t>(feature.places[at - codes]) : 0);
    }
  } else {
    rows->push_back(feature.salt);
    std::vector<uint64_t> folded;
    for (const int64_t part : feature.parts) {  // the first part is the outermost loop
      uint64_t bucket = 0;
      CodeSpan codes;
      if (part >= 0) {
        codes = view.texts[static_cast<size_t>(part)];
      } else {
        const SparseFeature& bucketed = features[static_cast<size_t>(-1 - part)];
        bucket = Mix(BucketRow(bucketed, view.numbers[static_cast<size_t>(bucketed.parts[0])]));
        codes = {&bucket, 1};
      }
      folded.clear();
      for (const uint64_t h : *rows) {
        for (size_t i = 0; i < codes.size; ++i) folded.push_back(Mix(h ^ codes.data[i]));
      }
      rows->swap(folded);
    }
    for (uint64_t& h : *rows) h = 1 + h % feature.buckets;
  }
  if (rows->empty()) rows->push_back(0);
}

}  // namespace genrecall

#endif  // GENRECALL_SPARSE_H_
