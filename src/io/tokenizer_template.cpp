// SPDX-License-Identifier: Apache-2.0
#include "io/tokenizer_template.hpp"

namespace dartquant::detail {
namespace {

using Kind = Error::Kind;

constexpr std::size_t max_ids = 1024;

}  // namespace

TokenTemplate::TokenTemplate(Json const* post_processor, std::int64_t vocabulary_size,
                             std::string const& source)
    : vocabulary_size_(vocabulary_size) {
  if (post_processor != nullptr) add(*post_processor, source);
}

std::int32_t TokenTemplate::read_id(Json const& id, std::string const& source) const {
  return static_cast<std::int32_t>(to_integer(id, "post_processor id", source, 0, vocabulary_size_ - 1));
}

void TokenTemplate::surround(std::vector<std::int32_t> const& front, std::vector<std::int32_t> const& back,
                             std::string const& source) {
  front_.insert(front_.begin(), front.begin(), front.end());
  back_.insert(back_.end(), back.begin(), back.end());
  if (front_.size() + back_.size() > max_ids)
    fail(Kind::unsupported, source, ": the post_processor adds ", front_.size() + back_.size(),
         " tokens to every text; at most ", max_ids, " are read");
}

void TokenTemplate::add(Json const& step, std::string const& source) {
  std::string const type = get<std::string>(step, "type", source);
  if (type == "Sequence") {
    for (Json const& inner : array_member(step, "processors", source)) add(inner, source);
  } else if (type == "TemplateProcessing") {
    add_template(step, source);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    auto const id = [&](char const* key) {
      Json const& pair = array_member(step, key, source);
      if (pair.size() != 2) fail(Kind::format, source, ": '", key, "' is not [piece, id]");
      return read_id(pair[1], source);
    };
    surround({id("cls")}, {id("sep")}, source);
  } else if (type != "ByteLevel") {  // ByteLevel changes offsets only
    fail(Kind::unsupported, source, ": a post_processor of type '", type,
         "' is not read; give token ids instead of text");
  }
}

void TokenTemplate::add_template(Json const& step, std::string const& source) {
  std::vector<std::int32_t> front;
  std::vector<std::int32_t> back;
  int sequences = 0;
  for (Json const& item : array_member(step, "single", source)) {
    if (find_member(item, "Sequence", source) != nullptr) {
      ++sequences;
      continue;
    }
    std::string const name = get<std::string>(object_member(item, "SpecialToken", source), "id", source);
    Json const& token = object_member(object_member(step, "special_tokens", source), name, source);
    std::vector<std::int32_t>& side = sequences == 0 ? front : back;
    for (Json const& id : array_member(token, "ids", source)) {
      side.push_back(read_id(id, source));
      if (side.size() > max_ids) break;  // surround refuses it
    }
  }
  if (sequences != 1)
    fail(Kind::unsupported, source, ": the template 'single' holds the text ", sequences,
         " times; once is read");
  surround(front, back, source);
}

std::vector<std::int32_t> TokenTemplate::apply(std::vector<std::int32_t> const& ids) const {
  std::vector<std::int32_t> result;
  result.reserve(front_.size() + ids.size() + back_.size());
  result.insert(result.end(), front_.begin(), front_.end());
  result.insert(result.end(), ids.begin(), ids.end());
  result.insert(result.end(), back_.begin(), back_.end());
  return result;
}

}  // namespace dartquant::detail
