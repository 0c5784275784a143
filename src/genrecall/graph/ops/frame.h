// Frames between a client and the engine's worker, as engine/worker/frames.py describes them:
//
//   | u32 bytes after this | u32 bytes of head | head: JSON | arrays, one after the other, as the head lists them |
//
// Every length is checked before it is used; a frame that is not exactly as long as it says is refused.
#ifndef GENRECALL_FRAME_H_
#define GENRECALL_FRAME_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "json.h"

namespace genrecall {

constexpr uint32_t kMostBytes = 1u << 26;      // of a reply; a worker's own limit is higher
constexpr uint32_t kMostHeadBytes = 1u << 16;
constexpr size_t kLengthBytes = 8;
constexpr size_t kMostArrays = 16;
constexpr size_t kMostDims = 8;

enum class ArrayType { kInt32, kInt64, kFloat32, kUint8 };

struct FrameArray {
  std::string name;
  ArrayType type = ArrayType::kUint8;
  std::vector<int64_t> shape;
  int64_t count = 0;           // elements
  const char* data = nullptr;  // within the payload, of any alignment
};

struct Frame {
  std::string kind;
  int64_t id = -1;
  bool is_short = false;
  bool narrowed = false;
  std::string error;
  std::string what;
  std::vector<FrameArray> arrays;

  const FrameArray* Find(const char* name, ArrayType type, size_t dims) const {
    for (const FrameArray& array : arrays) {
      if (array.name == name) return array.type == type && array.shape.size() == dims ? &array : nullptr;
    }
    return nullptr;
  }
};

struct Lengths {
  uint32_t payload = 0;  // bytes that follow the two lengths
  uint32_t head = 0;
};

inline uint32_t LittleEndian(const char* data) {
  const unsigned char* byte = reinterpret_cast<const unsigned char*>(data);
  return static_cast<uint32_t>(byte[0]) | static_cast<uint32_t>(byte[1]) << 8 | static_cast<uint32_t>(byte[2]) << 16 |
         static_cast<uint32_t>(byte[3]) << 24;
}

// The two lengths that open a frame; false where no frame can have them.
inline bool ReadLengths(const char* data, Lengths* out) {
  const uint32_t total = LittleEndian(data), head = LittleEndian(data + 4);
  if (total > kMostBytes || head > kMostHeadBytes || total < 4 || total - 4 < head) return false;
  *out = {total - 4, head};
  return true;
}

namespace internal {

inline bool ReadArray(JsonReader* json, FrameArray* array) {
  std::string type;
  if (!json->Take('[') || !json->String(&array->name) || !json->Take(',') || !json->String(&type)) return false;
  if (type == "int32") array->type = ArrayType::kInt32;
  else if (type == "int64") array->type = ArrayType::kInt64;
  else if (type == "float32") array->type = ArrayType::kFloat32;
  else if (type == "uint8") array->type = ArrayType::kUint8;
  else return false;
  if (!json->Take(',') || !json->Take('[')) return false;
  array->count = 1;
  if (!json->Take(']')) {
    do {
      int64_t size = 0;
      if (!json->Integer(&size) || size < 0 || size > kMostBytes || array->shape.size() == kMostDims) return false;
      array->shape.push_back(size);
      // Both factors are at most 2^26, so that this cannot overflow.
      array->count *= size;
      if (array->count > kMostBytes) return false;
    } while (json->Take(','));
    if (!json->Take(']')) return false;
  }
  return json->Take(']');
}

inline bool ReadArrays(JsonReader* json, std::vector<FrameArray>* arrays) {
  if (!json->Take('[')) return false;
  if (json->Take(']')) return true;
  do {
    if (arrays->size() == kMostArrays) return false;
    arrays->emplace_back();
    if (!ReadArray(json, &arrays->back())) return false;
    for (size_t i = 0; i + 1 < arrays->size(); ++i) {
      if ((*arrays)[i].name == arrays->back().name) return false;
    }
  } while (json->Take(','));
  return json->Take(']');
}

inline bool ReadHead(const char* data, size_t size, Frame* frame) {
  JsonReader json(data, size);
  std::string key;
  uint32_t seen = 0;
  const auto first = [&seen](uint32_t bit) { return (seen & bit) ? false : (seen |= bit, true); };
  if (!json.Take('{')) return false;
  do {
    if (!json.String(&key) || !json.Take(':')) return false;
    bool read = false;
    if (key == "kind") read = first(1) && json.String(&frame->kind);
    else if (key == "id") read = first(2) && json.Integer(&frame->id);
    else if (key == "arrays") read = first(4) && ReadArrays(&json, &frame->arrays);
    else if (key == "short") read = first(8) && json.Bool(&frame->is_short);
    else if (key == "narrowed") read = first(16) && json.Bool(&frame->narrowed);
    else if (key == "error") read = first(32) && json.String(&frame->error);
    else if (key == "what") read = first(64) && json.String(&frame->what);
    else read = json.Skip();
    if (!read) return false;
  } while (json.Take(','));
  constexpr uint32_t kNeeded = 1 | 2 | 4;
  return json.Take('}') && json.AtEnd() && (seen & kNeeded) == kNeeded;
}

}  // namespace internal

// What follows the two lengths, which `ReadLengths` has let pass. Arrays point into `payload`.
inline bool ReadFrame(const char* payload, const Lengths& lengths, Frame* frame) {
  if (!internal::ReadHead(payload, lengths.head, frame)) return false;
  size_t at = lengths.head;
  for (FrameArray& array : frame->arrays) {
    const size_t each = array.type == ArrayType::kUint8 ? 1 : array.type == ArrayType::kInt64 ? 8 : 4;
    const size_t bytes = static_cast<size_t>(array.count) * each;
    if (bytes > lengths.payload - at) return false;
    array.data = payload + at;
    at += bytes;
  }
  return at == lengths.payload;
}

// What is asked of the engine: one prompt.
struct Ask {
  const int32_t* tokens = nullptr;
  int64_t num_tokens = 0;
  int64_t beam = 0;
  std::string user;             // empty: nobody's
  double timeout_s = 0;         // 0: none
  std::string bundle;           // empty: any
  bool state = false;           // the model's state is wanted, too
  std::string allowed;          // bits, most significant first; empty: everything
  int64_t num_items = 0;
};

// Text as JSON; false where it is no UTF-8, or too long to be an id.
inline bool Quote(const std::string& text, std::string* out) {
  if (text.size() > 1024) return false;
  out->push_back('"');
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (c == '"' || c == '\\') out->push_back('\\');
    if (c < 0x20) {
      static constexpr char kDigits[] = "0123456789abcdef";
      out->append("\\u00");
      out->push_back(kDigits[c >> 4]);
      out->push_back(kDigits[c & 15]);
      continue;
    }
    out->push_back(static_cast<char>(c));
    if (c < 0x80) continue;
    const size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
    if (c < 0xc2 || c > 0xf4 || i + more >= text.size()) return false;
    uint32_t point = c & (0x3f >> more);
    for (size_t j = 0; j < more; ++j) {
      const unsigned char next = static_cast<unsigned char>(text[++i]);
      if ((next & 0xc0) != 0x80) return false;
      point = point << 6 | (next & 0x3f);
      out->push_back(static_cast<char>(next));
    }
    static constexpr uint32_t kLeast[] = {0x80, 0x800, 0x10000};
    if (point < kLeast[more - 1] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
  }
  out->push_back('"');
  return true;
}

inline void Append(uint32_t value, std::string* out) {
  for (int shift = 0; shift < 32; shift += 8) out->push_back(static_cast<char>(value >> shift));
}

inline std::string Framed(const std::string& head, const std::string& body) {
  std::string out;
  out.reserve(kLengthBytes + head.size() + body.size());
  Append(static_cast<uint32_t>(4 + head.size() + body.size()), &out);
  Append(static_cast<uint32_t>(head.size()), &out);
  return out.append(head).append(body);
}

// The frame that asks; false where the user's id cannot be written.
inline bool WriteAsk(const Ask& ask, uint64_t id, std::string* out) {
  std::string head = "{\"kind\": \"generate\", \"id\": " + std::to_string(id) +
                     ", \"beam\": " + std::to_string(ask.beam) + ", \"user\": ";
  if (ask.user.empty()) head += "null";
  else if (!Quote(ask.user, &head)) return false;
  head += ", \"timeout_s\": " + (ask.timeout_s > 0 ? std::to_string(ask.timeout_s) : std::string("null"));
  head += ", \"narrowest\": null, \"seed\": null, \"items\": ";
  head += ask.allowed.empty() ? "null" : std::to_string(ask.num_items);
  if (ask.state) head += ", \"state\": true";
  if (!ask.bundle.empty()) {
    head += ", \"bundle\": ";
    if (!Quote(ask.bundle, &head)) return false;
  }
  head += ", \"arrays\": [[\"tokens\", \"int32\", [" + std::to_string(ask.num_tokens) + "]]";
  if (!ask.allowed.empty()) head += ", [\"allowed\", \"uint8\", [" + std::to_string(ask.allowed.size()) + "]]";
  head += "]}";
  std::string body(reinterpret_cast<const char*>(ask.tokens), static_cast<size_t>(ask.num_tokens) * 4);
  *out = Framed(head, body.append(ask.allowed));
  return true;
}

inline std::string WriteCancel(uint64_t id) {
  return Framed("{\"kind\": \"cancel\", \"id\": " + std::to_string(id) + ", \"arrays\": []}", "");
}

}  // namespace genrecall

#endif  // GENRECALL_FRAME_H_
