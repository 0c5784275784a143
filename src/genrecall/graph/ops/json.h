// A bounded reader of the JSON that heads of frames are written in: ASCII, strict, at most kDepth deep.
//
// It is stricter than Python's reader on purpose: what this one accepts, that one accepts with the same meaning.
// Nothing is allocated beyond the strings that the caller asks for, and no input is read twice.
#ifndef GENRECALL_JSON_H_
#define GENRECALL_JSON_H_

#include <cstdint>
#include <cstring>
#include <string>

namespace genrecall {

class JsonReader {
 public:
  JsonReader(const char* data, size_t size) : at_(data), end_(data + size) {}

  // Whether this character comes next, past white space; if so it is taken.
  bool Take(char expected) {
    Space();
    if (at_ == end_ || *at_ != expected) return false;
    ++at_;
    return true;
  }

  bool AtEnd() {
    Space();
    return at_ == end_;
  }

  bool String(std::string* out) {
    if (!Take('"')) return false;
    out->clear();
    while (at_ != end_) {
      const unsigned char c = static_cast<unsigned char>(*at_++);
      if (c == '"') return true;
      if (c < 0x20 || c >= 0x7f) return false;
      if (c != '\\') {
        out->push_back(static_cast<char>(c));
      } else if (!Escape(out)) {
        return false;
      }
    }
    return false;
  }

  // A whole number of at most 18 digits.
  bool Integer(int64_t* out) {
    Space();
    const char* begin = at_;
    if (!Number()) return false;
    const bool negative = *begin == '-';
    const char* digits = begin + negative;
    if (at_ - digits > 18) return false;
    int64_t value = 0;
    for (; digits != at_; ++digits) {
      if (*digits < '0' || *digits > '9') return false;
      value = value * 10 + (*digits - '0');
    }
    *out = negative ? -value : value;
    return true;
  }

  bool Bool(bool* out) {
    if (Word("true")) return *out = true;
    *out = false;
    return Word("false");
  }

  // Any value, read and forgotten.
  bool Skip(int depth = 0) {
    if (depth > kDepth) return false;
    Space();
    if (at_ == end_) return false;
    if (*at_ == '"') return String(&scratch_);
    if (*at_ == '[') return SkipList(depth);
    if (*at_ == '{') return SkipObject(depth);
    return Word("true") || Word("false") || Word("null") || Number();
  }

 private:
  static constexpr int kDepth = 16;

  void Space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
  }

  bool Word(const char* word) {
    Space();
    const size_t length = std::strlen(word);
    if (static_cast<size_t>(end_ - at_) < length || std::memcmp(at_, word, length) != 0) return false;
    at_ += length;
    return true;
  }

  bool Digits() {
    const char* begin = at_;
    while (at_ != end_ && *at_ >= '0' && *at_ <= '9') ++at_;
    return at_ != begin && at_ - begin <= 64;
  }

  bool Number() {
    if (at_ != end_ && *at_ == '-') ++at_;
    const char* begin = at_;
    if (!Digits() || (*begin == '0' && at_ - begin > 1)) return false;
    if (at_ != end_ && *at_ == '.') {
      ++at_;
      if (!Digits()) return false;
    }
    if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
      ++at_;
      if (at_ != end_ && (*at_ == '+' || *at_ == '-')) ++at_;
      if (!Digits()) return false;
    }
    return true;
  }

  bool SkipList(int depth) {
    ++at_;
    if (Take(']')) return true;
    do {
      if (!Skip(depth + 1)) return false;
    } while (Take(','));
    return Take(']');
  }

  bool SkipObject(int depth) {
    ++at_;
    if (Take('}')) return true;
    do {
      if (!String(&scratch_) || !Take(':') || !Skip(depth + 1)) return false;
    } while (Take(','));
    return Take('}');
  }

  bool Escape(std::string* out) {
    if (at_ == end_) return false;
    const char c = *at_++;
    static constexpr char kFrom[] = "\"\\/bfnrt";
    static constexpr char kTo[] = "\"\\/\b\f\n\r\t";
    if (const char* place = c == '\0' ? nullptr : std::strchr(kFrom, c)) {
      out->push_back(kTo[place - kFrom]);
      return true;
    }
    uint32_t unit = 0;
    if (c != 'u' || !Hex(&unit)) return false;
    if (unit >= 0xd800 && unit < 0xe000) {
      // Texts are only shown: a pair of surrogates, or half of one, is shown as the replacement character.
      unit = 0xfffd;
    }
    if (unit < 0x80) {
      out->push_back(static_cast<char>(unit));
    } else if (unit < 0x800) {
      out->push_back(static_cast<char>(0xc0 | (unit >> 6)));
      out->push_back(static_cast<char>(0x80 | (unit & 0x3f)));
    } else {
      out->push_back(static_cast<char>(0xe0 | (unit >> 12)));
      out->push_back(static_cast<char>(0x80 | ((unit >> 6) & 0x3f)));
      out->push_back(static_cast<char>(0x80 | (unit & 0x3f)));
    }
    return true;
  }

  bool Hex(uint32_t* out) {
    if (end_ - at_ < 4) return false;
    for (int i = 0; i < 4; ++i) {
      const char c = *at_++;
      uint32_t digit = 0;
      if (c >= '0' && c <= '9') digit = static_cast<uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') digit = static_cast<uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') digit = static_cast<uint32_t>(c - 'A' + 10);
      else return false;
      *out = *out * 16 + digit;
    }
    return true;
  }

  const char* at_;
  const char* end_;
  std::string scratch_;
};

}  // namespace genrecall

#endif  // GENRECALL_JSON_H_
