// One connection to one engine worker, shared by every operator of the process that names its socket.
//
// A thread of its own reads replies, keeps deadlines and writes what a full socket did not take; whoever asks never
// waits. The connection is made when somebody asks, and made again after the worker was lost.
#ifndef GENRECALL_ENGINE_CLIENT_H_
#define GENRECALL_ENGINE_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "frame.h"

namespace genrecall {

using Clock = std::chrono::steady_clock;

enum class Outcome { kReply, kLost, kLate };

// Called once, from the client's thread, with no lock held. The frame is valid only during the call.
using OnOutcome = std::function<void(Outcome, const Frame&)>;

class EngineClient {
 public:
  // The client of a socket; it lives as long as the process.
  static EngineClient* Of(const std::string& path);

  // Asks, and returns a number to cancel by; 0 where the engine cannot be reached (then nobody is called).
  uint64_t Send(const Ask& ask, Clock::time_point deadline, OnOutcome on_outcome);

  // Gives a question up: true if nobody will be called for it any more.
  bool Cancel(uint64_t id);

 private:
  struct Waiting {
    Clock::time_point deadline;
    OnOutcome on_outcome;
  };

  explicit EngineClient(std::string path);
  bool Connect();                    // holding mu_
  void Queue(std::string bytes);     // holding mu_
  bool Flush();                      // holding mu_; false: the connection is broken
  void Wake();
  void Arm(Clock::time_point deadline);  // holding mu_
  bool Take(uint64_t id, Waiting* out);  // holding mu_
  [[noreturn]] void Run();
  bool Receive(int fd);              // false: the connection is over
  bool Deliver();                    // the frames that were received whole
  void Lose();
  void Expire();

  const std::string path_;
  const int wake_;
  const int timer_;                  // fires at armed_: whoever asks sets it, and wakes nobody
  std::mutex mu_;
  int fd_ = -1;
  uint64_t last_id_ = 0;
  std::string out_;
  size_t written_ = 0;
  std::unordered_map<uint64_t, Waiting> waiting_;
  std::multimap<Clock::time_point, uint64_t> deadlines_;
  Clock::time_point armed_ = Clock::time_point::max();
  std::vector<char> in_;             // of the client's thread alone, with the two below
  size_t received_ = 0;
  size_t consumed_ = 0;
};

}  // namespace genrecall

#endif  // GENRECALL_ENGINE_CLIENT_H_
