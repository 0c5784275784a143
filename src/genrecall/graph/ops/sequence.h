// A user's events as prompt tokens, the way prompt/prompt.py and prompt/item_prompt.py write them.
//
//   events → known items → within the window → de-duplicated → the newest so many → those that fit → tokens
//
// Plain C++ over spans, so that it is tested without TensorFlow.
#ifndef GENRECALL_SEQUENCE_H_
#define GENRECALL_SEQUENCE_H_

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <unordered_set>
#include <vector>

namespace genrecall {

enum class Deduplicate { kNone, kFirst, kLast };

struct SequenceSettings {
  int64_t max_items = 0;       // the newest so many events are shown
  Deduplicate deduplicate = Deduplicate::kNone;
  bool newest_first = false;   // in the order of the tokens
  bool sort = false;           // events come in any order; by time, stable
  bool sessions = false;       // events whose time differs from the one before are told apart
  int64_t window_s = 0;        // older events are left out; 0: none
  int64_t max_tokens = 0;      // of the prompt; 0: no limit
  int64_t separator = -1;      // token after an event that opens a session; -1: none
  int64_t session_offset = 0;  // added to the token of an event that opens a session
  std::vector<int32_t> joiner, tail, empty_tail;
};

struct Pieces {
  const int32_t* data = nullptr;  // (items, width), -1 after a piece's end
  int64_t items = 0;
  int64_t width = 0;
};

struct Events {
  const int32_t* items = nullptr;
  const int64_t* times = nullptr;  // or null
  int64_t size = 0;
};

// Places of the events that are shown, oldest first; `kept` is overwritten.
inline void Shown(const SequenceSettings& settings, const Pieces& pieces, const Events& events, int64_t now,
                  std::vector<int64_t>* kept) {
  kept->clear();
  std::vector<int64_t> order;
  if (settings.sort && events.times != nullptr) {
    order.resize(static_cast<size_t>(events.size));
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return events.times[a] < events.times[b]; });
  }
  const bool oldest_wins = settings.deduplicate == Deduplicate::kFirst;
  std::unordered_set<int32_t> seen;
  for (int64_t step = 0; step < events.size; ++step) {
    // From the newest, so that only what is shown is looked at; where the first of an item wins, from the oldest.
    const int64_t place = oldest_wins ? step : events.size - 1 - step;
    const int64_t at = order.empty() ? place : order[static_cast<size_t>(place)];
    const int32_t item = events.items[at];
    if (item < 0 || item >= pieces.items) continue;
    if (settings.window_s > 0 && events.times[at] < now - settings.window_s) continue;
    if (settings.deduplicate != Deduplicate::kNone && !seen.insert(item).second) continue;
    kept->push_back(at);
    if (!oldest_wins && static_cast<int64_t>(kept->size()) == settings.max_items) break;
  }
  if (!oldest_wins) std::reverse(kept->begin(), kept->end());
  const int64_t extra = static_cast<int64_t>(kept->size()) - settings.max_items;
  if (extra > 0) kept->erase(kept->begin(), kept->begin() + extra);
}

inline int64_t PieceLength(const Pieces& pieces, int32_t item) {
  const int32_t* piece = pieces.data + item * pieces.width;
  return std::find(piece, piece + pieces.width, -1) - piece;
}

// How many of the newest `kept` events fit into `room` tokens.
inline int64_t Fitting(const SequenceSettings& settings, const Pieces& pieces, const Events& events,
                       const std::vector<int64_t>& kept, int64_t room) {
  int64_t tokens = 0, fitting = 0;
  for (int64_t i = static_cast<int64_t>(kept.size()) - 1; i >= 0; --i, ++fitting) {
    tokens += PieceLength(pieces, events.items[kept[static_cast<size_t>(i)]]);
    if (fitting > 0) {
      tokens += static_cast<int64_t>(settings.joiner.size());
      // The event after this one turns out to open a session only now that this one stands before it.
      const bool opens = settings.sessions && settings.separator >= 0 && events.times != nullptr &&
                         events.times[kept[static_cast<size_t>(i)]] != events.times[kept[static_cast<size_t>(i) + 1]];
      tokens += opens;
    }
    if (tokens > room) break;
  }
  return fitting;
}

// Appends the tokens of these events; false where head and tail alone leave no room (`room` is negative).
inline bool WriteSequence(const SequenceSettings& settings, const Pieces& pieces, const Events& events,
                          const int32_t* head, int64_t head_size, std::vector<int64_t>* kept,
                          std::vector<int32_t>* tokens) {
  const std::vector<int32_t>& tail = kept->empty() ? settings.empty_tail : settings.tail;
  if (settings.max_tokens > 0) {
    const int64_t room = settings.max_tokens - head_size - static_cast<int64_t>(tail.size());
    if (room < 0) return false;
    const int64_t fitting = Fitting(settings, pieces, events, *kept, room);
    kept->erase(kept->begin(), kept->end() - fitting);
  }
  tokens->insert(tokens->end(), head, head + head_size);
  const int64_t count = static_cast<int64_t>(kept->size());
  for (int64_t step = 0; step < count; ++step) {
    const size_t place = static_cast<size_t>(settings.newest_first ? count - 1 - step : step);
    const int64_t at = (*kept)[place];
    const bool opens = settings.sessions && events.times != nullptr && place > 0 &&
                       events.times[at] != events.times[(*kept)[place - 1]];
    if (step > 0) tokens->insert(tokens->end(), settings.joiner.begin(), settings.joiner.end());
    const int32_t* piece = pieces.data + events.items[at] * pieces.width;
    const size_t first = tokens->size();
    for (int64_t i = 0; i < pieces.width && piece[i] >= 0; ++i) tokens->push_back(piece[i]);
    if (opens && tokens->size() > first) (*tokens)[first] += static_cast<int32_t>(settings.session_offset);
    if (opens && settings.separator >= 0) tokens->push_back(static_cast<int32_t>(settings.separator));
  }
  tokens->insert(tokens->end(), tail.begin(), tail.end());
  return true;
}

}  // namespace genrecall

#endif  // GENRECALL_SEQUENCE_H_
