// Reads cases from standard input, each a u32 length and so many bytes of a frame's payload behind its two lengths,
// and writes one line a case: what the parser of the operators makes of it.
#include <cstdio>
#include <string>
#include <vector>

#include "frame.h"

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);  // the other side waits for each line
  unsigned char length[4];
  while (std::fread(length, 1, 4, stdin) == 4) {
    const uint32_t size = genrecall::LittleEndian(reinterpret_cast<const char*>(length));
    // Of exactly this size on the heap, so that reading one byte too many is seen.
    std::vector<char> bytes(size);
    if (size > 0 && std::fread(bytes.data(), 1, size, stdin) != size) return 1;
    genrecall::Lengths lengths;
    genrecall::Frame frame;
    const bool whole = size >= genrecall::kLengthBytes && genrecall::ReadLengths(bytes.data(), &lengths) &&
                       lengths.payload == size - genrecall::kLengthBytes;
    if (!whole || !genrecall::ReadFrame(bytes.data() + genrecall::kLengthBytes, lengths, &frame)) {
      std::puts("refused");
      continue;
    }
    std::printf("%s %lld %d %d", frame.kind.c_str(), static_cast<long long>(frame.id), frame.is_short, frame.narrowed);
    for (const genrecall::FrameArray& array : frame.arrays) {
      uint32_t sum = 0;
      const size_t each = array.type == genrecall::ArrayType::kUint8 ? 1 : array.type == genrecall::ArrayType::kInt64 ? 8 : 4;
      for (size_t i = 0; i < static_cast<size_t>(array.count) * each; ++i) sum += static_cast<unsigned char>(array.data[i]);
      std::printf(" %s:%lld:%u", array.name.c_str(), static_cast<long long>(array.count), sum);
    }
    std::putchar('\n');
  }
  return 0;
}
