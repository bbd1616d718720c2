// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

#include "cuda/fake/device.hpp"

namespace dartquant::test::fake {
namespace {

struct Stream {
  int device = 0;
  std::deque<std::function<void()>> work{};
  std::size_t enqueued = 0, done = 0;
};
/// The work of a stream up to some point.
struct Event {
  cudaStream_t stream = nullptr;
  std::size_t count = 0;
};
struct Block {
  std::size_t bytes = 0;
  int device = 0;
};

struct World {
  Counts counts{};
  int devices = 2, current = 0, float64_ratio = 2, architecture = 90;
  std::size_t memory = std::numeric_limits<std::size_t>::max(), used = 0;
  std::map<std::byte const*, Block> blocks{};
  std::map<std::byte const*, std::size_t> pinned{};
  std::map<cudaStream_t, Stream> streams{{nullptr, {}}};
};
World& world() {
  static World one;
  return one;
}

template <class Map>
auto find(Map& map, void const* data) {
  auto found = map.upper_bound(static_cast<std::byte const*>(data));
  return found == map.begin() ? map.end() : std::prev(found);
}
bool is_pinned(void const* data) {
  auto const found = find(world().pinned, data);
  return found != world().pinned.end() && static_cast<std::byte const*>(data) < found->first + found->second;
}

void drain(Event const& until) {
  Stream& own = world().streams.at(until.stream);
  while (own.done < until.count && !own.work.empty()) {
    auto const work = std::move(own.work.front());
    own.work.pop_front();
    work();
    ++own.done;
  }
}
void drain(cudaStream_t stream) { drain(Event{stream, std::numeric_limits<std::size_t>::max()}); }
void drain_all() {
  for (auto const& [stream, state] : world().streams) drain(stream);
}

}  // namespace

void enqueue(cudaStream_t stream, std::function<void()> work) {
  auto const found = world().streams.find(stream);
  if (found == world().streams.end()) throw std::logic_error("[fake] work for a stream that is gone");
  if (found->second.device != world().current)
    throw std::logic_error("[fake] work for a stream of a device that is not current");
  found->second.work.push_back(std::move(work));
  ++found->second.enqueued;
}
void count_launch() { ++world().counts.launches; }
Counts counts() { return world().counts; }
void set_device_count(int count) { world().devices = count; }
void set_memory(std::size_t bytes) { world().memory = bytes; }
void set_float64_ratio(int ratio) { world().float64_ratio = ratio; }
void set_architecture(int architecture) { world().architecture = architecture; }
int living() { return static_cast<int>(world().blocks.size() + world().streams.size()) - 1; }

void require_device_memory(char const* who, void const* data, std::size_t bytes) {
  if (bytes == 0) return;
  auto const found = find(world().blocks, data);
  if (found == world().blocks.end() ||
      static_cast<std::byte const*>(data) + bytes > found->first + found->second.bytes)
    throw std::logic_error(std::string("[fake] ") + who + " reaches outside the memory of the device");
}

}  // namespace dartquant::test::fake

using namespace dartquant::test::fake;

extern "C" {

char const* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorNoDevice           ? "cudaErrorNoDevice"
         : error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
                                              : "cudaError";
}
char const* cudaGetErrorString(cudaError_t) { return "an error of the fake device"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = world().devices;
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDevice(int* device) {
  *device = world().current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  world().current = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 * 1024
           : which == cudaDevAttrComputeCapabilityMajor     ? world().architecture / 10
           : which == cudaDevAttrComputeCapabilityMinor     ? world().architecture % 10
                                                            : world().float64_ratio;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "fake");
  properties->major = 9;
  properties->minor = 0;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total) {
  *free_bytes = world().memory - world().used;
  *total = world().memory;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  if (bytes > world().memory - world().used) return cudaErrorMemoryAllocation;
  ++world().counts.allocations;
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*memory, 0xFF, bytes);
  world().blocks[static_cast<std::byte*>(*memory)] = {bytes, world().current};
  world().used += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  drain_all();
  auto const found = world().blocks.find(static_cast<std::byte*>(memory));
  if (found == world().blocks.end()) return cudaErrorInvalidValue;
  world().used -= found->second.bytes;
  world().blocks.erase(found);
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  world().pinned[static_cast<std::byte*>(*memory)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  drain_all();
  world().pinned.erase(static_cast<std::byte*>(memory));
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, void const* data) {
  auto const found = find(world().blocks, data);
  bool const device = found != world().blocks.end() &&
                      static_cast<std::byte const*>(data) < found->first + found->second.bytes;
  attributes->type = device            ? cudaMemoryTypeDevice
                     : is_pinned(data) ? cudaMemoryTypeHost
                                       : cudaMemoryTypeUnregistered;
  attributes->device = device ? found->second.device : 0;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  static std::size_t next = 16;
  *stream = reinterpret_cast<cudaStream_t>(next += 16);
  world().streams[*stream].device = world().current;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  drain(stream);
  world().streams.erase(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  *device = world().streams.at(stream).device;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ++world().counts.waits;
  drain(stream);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *reinterpret_cast<Event*>(event) = {stream, world().streams.at(stream).enqueued};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  drain(*reinterpret_cast<Event*>(event));
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  enqueue(stream, [recorded = *reinterpret_cast<Event*>(event)] { drain(recorded); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, void const* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (height == 0 || width == 0) return cudaSuccess;
  if (to_pitch < width || from_pitch < width) return cudaErrorInvalidPitchValue;
  if (kind != cudaMemcpyDeviceToHost) require_device_memory("a copy", to, (height - 1) * to_pitch + width);
  if (kind != cudaMemcpyHostToDevice)
    require_device_memory("a copy", from, (height - 1) * from_pitch + width);
  auto const copy = [=] {
    for (std::size_t row = 0; row < height; ++row)
      std::memcpy(static_cast<std::byte*>(to) + row * to_pitch,
                  static_cast<std::byte const*>(from) + row * from_pitch, width);
  };
  if (kind == cudaMemcpyHostToDevice && !is_pinned(from)) {
    drain(stream);
    copy();
  } else {
    enqueue(stream, copy);
  }
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

}  // extern "C"
