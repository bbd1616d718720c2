// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <dartquant/io/checkpoint.hpp>

#include "input_file.hpp"

using namespace dartquant;
namespace fs = std::filesystem;

namespace {

/// A folder with two small shards; the fuzzer writes its index.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("dartquant-fuzz-index-" + std::to_string(::getpid()))) {
    fs::create_directories(path_);
    std::byte const zeros[8] = {};
    for (char const* name : {"a", "b"}) {
      SafetensorsWriter writer(path_ / (std::string("model-") + name + ".safetensors"),
                               {{name, Dtype::f32, {2}}, {std::string(name) + "2", Dtype::f32, {2}}});
      writer.append_bytes(name, zeros);
      writer.append_bytes(std::string(name) + "2", zeros);
      writer.commit();
    }
  }
  Folder(Folder const&) = delete;
  Folder& operator=(Folder const&) = delete;
  ~Folder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  [[nodiscard]] fs::path const& path() const { return path_; }

 private:
  fs::path path_;
};

}  // namespace

/// Whatever the index says, only files of the folder may be opened: a file that is missing is an Error(io).
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* bytes, std::size_t size) {
  static Folder const folder;
  {
    std::ofstream index(folder.path() / "model.safetensors.index.json", std::ios::binary | std::ios::trunc);
    index.write(reinterpret_cast<char const*>(bytes), static_cast<std::streamsize>(size));
  }
  try {
    Checkpoint const checkpoint(folder.path());
    for (std::string const& name : checkpoint.names())
      if (checkpoint.tensor(name).bytes.size() != 8) std::abort();
  } catch (Error const&) {
  }
  return 0;
}
