// An engine that computes nothing: every question is answered at once by the same SIDs. It measures what asking costs.
//
//   null_engine SOCKET LEVELS ANSWERS        the answers are the SIDs (0, …, 0, n), n = 0 … ANSWERS - 1
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "frame.h"

namespace {

std::string Answer(int64_t id, int levels, int answers) {
  const std::string n = std::to_string(answers);
  std::string body;
  for (int i = 0; i < answers; ++i) {
    for (int level = 0; level + 1 < levels; ++level) genrecall::Append(0, &body);
    genrecall::Append(static_cast<uint32_t>(i), &body);
  }
  for (int i = 0; i < answers; ++i) {
    const float score = -0.01f * static_cast<float>(i);
    body.append(reinterpret_cast<const char*>(&score), 4);
  }
  return genrecall::Framed("{\"kind\": \"answer\", \"short\": false, \"narrowed\": false, \"id\": " + std::to_string(id) +
                               ", \"arrays\": [[\"sids\", \"int32\", [" + n + ", " + std::to_string(levels) +
                               "]], [\"scores\", \"float32\", [" + n + "]]]}",
                           body);
}

// Answers every whole question of `in`; false where the other side speaks another language.
bool Serve(int fd, std::string* in, int levels, int answers) {
  std::string out;
  genrecall::Lengths lengths;
  size_t at = 0;
  while (in->size() - at >= genrecall::kLengthBytes) {
    if (!genrecall::ReadLengths(in->data() + at, &lengths)) return false;
    if (in->size() - at - genrecall::kLengthBytes < lengths.payload) break;
    genrecall::Frame frame;
    if (!genrecall::ReadFrame(in->data() + at + genrecall::kLengthBytes, lengths, &frame)) return false;
    if (frame.kind == "generate") out += Answer(frame.id, levels, answers);
    at += genrecall::kLengthBytes + lengths.payload;
  }
  in->erase(0, at);
  for (size_t sent = 0; sent < out.size();) {
    const ssize_t written = send(fd, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
    if (written <= 0) return false;
    sent += static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int levels = std::atoi(argv[2]), answers = std::atoi(argv[3]);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, argv[1], sizeof(address.sun_path) - 1);
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 || listen(listener, 16) != 0) return 1;
  std::puts("ready");
  std::fflush(stdout);
  std::vector<pollfd> polled{{listener, POLLIN, 0}};
  std::vector<std::string> in{""};
  char buffer[1 << 16];
  for (;;) {
    poll(polled.data(), polled.size(), -1);
    for (size_t i = 1; i < polled.size(); ++i) {
      if (polled[i].revents == 0) continue;
      const ssize_t got = recv(polled[i].fd, buffer, sizeof(buffer), 0);
      if (got > 0) in[i].append(buffer, static_cast<size_t>(got));
      if (got <= 0 || !Serve(polled[i].fd, &in[i], levels, answers)) {
        close(polled[i].fd);
        polled.erase(polled.begin() + static_cast<long>(i));
        in.erase(in.begin() + static_cast<long>(i));
        --i;
      }
    }
    if (polled[0].revents != 0) {
      polled.push_back({accept(listener, nullptr, nullptr), POLLIN, 0});
      in.emplace_back();
    }
  }
}
