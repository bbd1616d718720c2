// SPDX-License-Identifier: Apache-2.0
#include "damaged_model.hpp"

#include <cstring>

#include "run_program.hpp"

namespace dartquant::test {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t prefix = 8;

std::uint64_t header_size(std::string const& bytes) {
  std::uint64_t size = 0;
  std::memcpy(&size, bytes.data(), prefix);
  return size;
}

Json header_of(std::string const& bytes) { return Json::parse(bytes.substr(prefix, header_size(bytes))); }

}  // namespace

void copy_model(fs::path const& folder) {
  fs::create_directories(folder);
  for (char const* const name :
       {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"})
    fs::copy_file(tiny_llama() / name, folder / name);
}

void truncate_file(fs::path const& file, double share) {
  fs::resize_file(file, static_cast<std::uintmax_t>(static_cast<double>(fs::file_size(file)) * share));
}

void edit_json(fs::path const& file, std::function<void(Json&)> const& edit) {
  Json content = Json::parse(read_file(file));
  edit(content);
  write_file(file, content.dump(2));
}

void edit_header(fs::path const& file, std::function<void(Json&)> const& edit) {
  std::string const bytes = read_file(file);
  Json header = header_of(bytes);
  edit(header);
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::uint64_t const size = text.size();
  std::string result(prefix, '\0');
  std::memcpy(result.data(), &size, prefix);
  write_file(file, result + text + bytes.substr(prefix + header_size(bytes)));
}

void fill_elements(fs::path const& file, std::string const& tensor, std::uint64_t first, std::uint64_t count,
                   std::uint16_t bits) {
  std::string bytes = read_file(file);
  std::uint64_t const begin = header_of(bytes).at(tensor).at("data_offsets").at(0);
  for (std::uint64_t i = first; i < first + count; ++i)
    std::memcpy(bytes.data() + prefix + header_size(bytes) + begin + 2 * i, &bits, 2);
  write_file(file, bytes);
}

void make_sharded(fs::path const& folder, std::string const& missing) {
  std::string const first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  Json index{{"metadata", Json::object()}, {"weight_map", Json::object()}};
  Json const header = header_of(read_file(folder / "model.safetensors"));
  for (auto const& [name, entry] : header.items())
    if (name != "__metadata__") index["weight_map"][name] = name == missing ? second : first;
  fs::rename(folder / "model.safetensors", folder / first);
  write_file(folder / "model.safetensors.index.json", index.dump());
}

}  // namespace dartquant::test
