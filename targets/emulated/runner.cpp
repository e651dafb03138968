// Runs an ExecuTorch program on windows of tokens, as an emulated ARM processor does: counts, sizes, results.
//
// runner MODEL.pte INPUT OUTPUT TASK STEPS: INPUT holds int64 numbers, for each window its length and its ids. OUTPUT gets
// the float32 results of all windows, one after another. TASK is causal-lm (ids and positions) or encoder (ids).
// Of a language model, the first STEPS tokens of the first window are then computed one at a time, as in decoding.
// The system call getppid stands before and after what the plugin counts: all windows, then all single tokens.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::Error;

static long status_kb(const char* field) {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    if (line.compare(0, std::strlen(field), field) == 0) return std::stol(line.substr(std::strlen(field) + 1));
  }
  return 0;
}

int main(int count, char** arguments) {
  if (count != 6) return 2;
  const size_t steps = std::stoul(arguments[5]);
  const long before_kb = status_kb("VmRSS:");
  const bool causal = std::string(arguments[4]) == "causal-lm";
  std::ifstream input(arguments[2], std::ios::binary);
  std::vector<std::vector<int64_t>> windows;
  for (int64_t length; input.read(reinterpret_cast<char*>(&length), 8);) {
    windows.emplace_back(length);
    input.read(reinterpret_cast<char*>(windows.back().data()), 8 * length);
  }
  Module module(arguments[1]);
  if (module.load_forward() != Error::Ok) {
    std::fprintf(stderr, "the program does not load\n");
    return 3;
  }
  std::ofstream output(arguments[3], std::ios::binary);
  auto run = [&](std::vector<int64_t>& window, int64_t start, int64_t length, bool keep) {
    std::vector<int64_t> positions(length);
    for (int64_t at = 0; at < length; ++at) positions[at] = start + at;
    const int size = static_cast<int>(length);
    auto ids = from_blob(window.data() + start, {1, size}, ScalarType::Long);
    auto places = from_blob(positions.data(), {size}, ScalarType::Long);
    std::vector<executorch::runtime::EValue> given{ids};
    if (causal) given.emplace_back(places);
    auto result = module.forward(given);
    if (!result.ok()) return false;
    const auto tensor = result->at(0).toTensor();
    if (keep) output.write(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
    return true;
  };
  syscall(SYS_getppid);
  for (auto& window : windows) {
    if (!run(window, 0, static_cast<int64_t>(window.size()), true)) {
      std::fprintf(stderr, "the program fails on a window\n");
      return 4;
    }
  }
  syscall(SYS_getppid);
  if (causal) {
    for (size_t at = 0; at < steps && at < windows[0].size(); ++at) {
      if (!run(windows[0], static_cast<int64_t>(at), 1, false)) return 5;
    }
  }
  syscall(SYS_getppid);
  std::printf("peak_kb %ld before_kb %ld\n", status_kb("VmHWM:"), before_kb);
  return 0;
}
