#include "engine_client.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

namespace genrecall {
namespace {

constexpr size_t kMostQueued = size_t{1} << 26;  // bytes for an engine that does not read
constexpr size_t kReadBytes = size_t{1} << 16;
const Clock::time_point kNever = Clock::time_point::max();

// The socket of another user's process is no engine of ours.
bool IsOurs(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == geteuid() || peer.uid == 0;
}

}  // namespace

EngineClient* EngineClient::Of(const std::string& path) {
  // Never destroyed: their threads run until the process ends.
  static std::mutex* mu = new std::mutex;
  static auto* clients = new std::unordered_map<std::string, EngineClient*>;
  std::lock_guard<std::mutex> lock(*mu);
  EngineClient*& client = (*clients)[path];
  if (client == nullptr) client = new EngineClient(path);
  return client;
}

EngineClient::EngineClient(std::string path)
    : path_(std::move(path)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      timer_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
      in_(kReadBytes) {
  std::thread([this] { Run(); }).detach();
}

uint64_t EngineClient::Send(const Ask& ask, Clock::time_point deadline, OnOutcome on_outcome) {
  std::lock_guard<std::mutex> lock(mu_);
  if (fd_ < 0 && !Connect()) return 0;
  if (out_.size() - written_ > kMostQueued) return 0;
  const uint64_t id = ++last_id_;
  std::string bytes;
  if (!WriteAsk(ask, id, &bytes)) return 0;
  waiting_.emplace(id, Waiting{deadline, std::move(on_outcome)});
  if (deadline != kNever) deadlines_.emplace(deadline, id);
  Queue(std::move(bytes));
  Arm(deadline);
  return id;
}

bool EngineClient::Cancel(uint64_t id) {
  std::lock_guard<std::mutex> lock(mu_);
  Waiting given_up;
  if (!Take(id, &given_up)) return false;
  if (fd_ >= 0) Queue(WriteCancel(id));
  return true;
}

bool EngineClient::Connect() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.empty() || path_.size() >= sizeof(address.sun_path)) return false;
  std::memcpy(address.sun_path, path_.data(), path_.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 || !IsOurs(fd)) {
    close(fd);
    return false;
  }
  fd_ = fd;
  Wake();
  return true;
}

void EngineClient::Queue(std::string bytes) {
  if (out_.empty()) {
    out_ = std::move(bytes);
    written_ = 0;
  } else {
    out_ += bytes;
  }
  // Most of the time the socket takes everything here. What it leaves, or a broken connection, is the thread's affair.
  if (!Flush() || !out_.empty()) Wake();
}

bool EngineClient::Flush() {
  while (written_ < out_.size()) {
    const ssize_t sent = send(fd_, out_.data() + written_, out_.size() - written_, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    written_ += static_cast<size_t>(sent);
  }
  out_.clear();
  written_ = 0;
  return true;
}

void EngineClient::Wake() {
  const uint64_t one = 1;
  // A full counter wakes just as well.
  [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof(one));
}

void EngineClient::Arm(Clock::time_point deadline) {
  if (deadline >= armed_) return;
  armed_ = deadline;
  const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline - Clock::now()).count();
  const int64_t ns = std::max<int64_t>(left, 1);
  const itimerspec at{{0, 0}, {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)}};
  timerfd_settime(timer_, 0, &at, nullptr);
}

bool EngineClient::Take(uint64_t id, Waiting* out) {
  const auto found = waiting_.find(id);
  if (found == waiting_.end()) return false;
  *out = std::move(found->second);
  waiting_.erase(found);
  if (out->deadline != kNever) {
    auto [at, last] = deadlines_.equal_range(out->deadline);
    while (at != last && at->second != id) ++at;
    if (at != last) deadlines_.erase(at);
  }
  return true;
}

void EngineClient::Run() {
  for (;;) {
    pollfd polled[3] = {{wake_, POLLIN, 0}, {-1, POLLIN, 0}, {timer_, POLLIN, 0}};
    {
      std::lock_guard<std::mutex> lock(mu_);
      polled[1].fd = fd_;
      if (!out_.empty()) polled[1].events |= POLLOUT;
    }
    poll(polled, 3, -1);
    if (polled[0].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t drained = read(wake_, &count, sizeof(count));
    }
    bool alive = true;
    if (polled[1].fd >= 0) {
      alive = polled[1].revents == 0 || Receive(polled[1].fd);
      std::lock_guard<std::mutex> lock(mu_);
      alive = alive && Flush();
    }
    if (!alive) Lose();
    if (polled[2].revents != 0) Expire();
  }
}

bool EngineClient::Receive(int fd) {
  for (;;) {
    if (in_.size() - received_ < kReadBytes) in_.resize(in_.size() * 2);
    const ssize_t got = recv(fd, in_.data() + received_, in_.size() - received_, 0);
    if (got == 0) return false;
    if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    received_ += static_cast<size_t>(got);
    const bool drained = received_ < in_.size();
    if (!Deliver()) return false;
    if (drained) return true;
  }
}

bool EngineClient::Deliver() {
  Lengths lengths;
  while (received_ - consumed_ >= kLengthBytes) {
    if (!ReadLengths(in_.data() + consumed_, &lengths)) return false;
    if (received_ - consumed_ - kLengthBytes < lengths.payload) break;
    Frame frame;
    if (!ReadFrame(in_.data() + consumed_ + kLengthBytes, lengths, &frame)) return false;
    Waiting answered;
    bool asked = false;
    {
      std::lock_guard<std::mutex> lock(mu_);
      asked = frame.id >= 0 && Take(static_cast<uint64_t>(frame.id), &answered);
    }
    if (asked) answered.on_outcome(Outcome::kReply, frame);
    consumed_ += kLengthBytes + lengths.payload;
  }
  std::memmove(in_.data(), in_.data() + consumed_, received_ - consumed_);
  received_ -= consumed_;
  consumed_ = 0;
  return true;
}

void EngineClient::Lose() {
  std::unordered_map<uint64_t, Waiting> lost;
  {
    std::lock_guard<std::mutex> lock(mu_);
    close(fd_);
    fd_ = -1;
    out_.clear();
    written_ = 0;
    lost.swap(waiting_);
    deadlines_.clear();
  }
  received_ = consumed_ = 0;
  in_.resize(kReadBytes);
  for (auto& [id, waiting] : lost) waiting.on_outcome(Outcome::kLost, Frame());
}

void EngineClient::Expire() {
  std::vector<Waiting> late;
  {
    std::lock_guard<std::mutex> lock(mu_);
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t drained = read(timer_, &count, sizeof(count));
    const auto now = Clock::now();
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
      const uint64_t id = deadlines_.begin()->second;
      late.emplace_back();
      Take(id, &late.back());
      if (fd_ >= 0) Queue(WriteCancel(id));
    }
    armed_ = kNever;
    if (!deadlines_.empty()) Arm(deadlines_.begin()->first);
  }
  for (Waiting& waiting : late) waiting.on_outcome(Outcome::kLate, Frame());
}

}  // namespace genrecall
